"""Writing so that nothing is half there or lost: atomic files and folders, and manifests that show damage."""

"""Durable files: atomic writes of files and folders, manifests that show damage, locks and step checkpoints."""

"""The state of a run while it runs, for `align watch`."""

"""Verbs that convert a checkpoint to another form."""

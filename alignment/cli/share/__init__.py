"""Verbs that write a checkpoint in another form."""

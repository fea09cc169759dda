"""Verbs that look at recipes, checkpoints and run directories."""

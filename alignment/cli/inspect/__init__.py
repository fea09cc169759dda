"""Verbs that inspect recipes, checkpoints and run directories."""

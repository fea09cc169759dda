"""Verbs that sample from checkpoints, score them and compare them."""

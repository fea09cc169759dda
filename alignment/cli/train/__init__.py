"""Verbs that train: a stage, or a pipeline of them."""

"""Verbs that train: a single stage, or a pipeline of stages."""

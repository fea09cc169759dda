"""Callbacks of transformers' Trainer: step checkpoints, metrics, faults, stopping."""

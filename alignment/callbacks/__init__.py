"""Callbacks for transformers' Trainer: step checkpoints, metrics, faults, stopping."""

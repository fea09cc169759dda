"""Validate a recipe and its data, and estimate memory and time, before any training."""

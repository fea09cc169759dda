"""Predictions of tokens, steps, memory and time of a stage, without making weights."""

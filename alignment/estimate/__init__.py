"""Predict tokens, steps, memory and time of a stage, without allocating weights."""

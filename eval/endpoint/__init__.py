"""Evaluates models behind OpenAI-compatible endpoints, through lm-eval's API models."""

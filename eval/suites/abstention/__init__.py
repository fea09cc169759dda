"""Abstention: whether a checkpoint says "I don't know" exactly when a question has no known answer."""

"""Replies of checkpoints: sampling, choosing among them, judging pairs of them."""

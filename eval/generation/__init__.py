"""Replies of checkpoints: sampling, choosing among replies, judging pairs of replies."""

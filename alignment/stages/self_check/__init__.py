"""The self-check: a stage verifies its own plumbing before its first step."""

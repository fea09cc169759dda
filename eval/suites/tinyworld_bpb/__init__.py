"""Bits per byte of held-out tinyworld documents, one task per quality of text."""

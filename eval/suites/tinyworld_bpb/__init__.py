"""How well does a checkpoint predict held-out tinyworld documents? Bits per byte, one task a quality of text."""

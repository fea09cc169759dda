"""How well does a checkpoint predict a text? Bits per byte of any file with text."""

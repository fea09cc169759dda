"""Bits per byte of any file with text."""

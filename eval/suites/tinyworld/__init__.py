"""Exact match on tinyworld's test questions, one task per family, with their macro mean."""

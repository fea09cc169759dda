"""BIG-Bench Hard: 27 tasks that were hard for language models."""

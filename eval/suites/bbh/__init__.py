"""27 tasks that once were hard for language models: BIG-Bench Hard."""

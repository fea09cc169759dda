"""The pre-flight: what is wrong with a recipe and its data, and what it will take, before any training."""

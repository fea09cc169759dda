"""What the stages share: beginning and ending, adapters, model cards, prompts and rewards."""

"""How helpful sampled replies to tinyworld's harmless prompts are: the content part of the gold reward."""

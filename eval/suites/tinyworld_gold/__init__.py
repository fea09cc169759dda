"""How good are sampled replies to tinyworld's test prompts, by the gold reward?"""

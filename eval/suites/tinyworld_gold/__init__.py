"""Gold reward of replies sampled for tinyworld's test prompts."""

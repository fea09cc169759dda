"""The last word of a passage: LAMBADA, as OpenAI prepared it."""

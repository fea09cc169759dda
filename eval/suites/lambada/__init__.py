"""LAMBADA, OpenAI's version: the last word of a passage."""

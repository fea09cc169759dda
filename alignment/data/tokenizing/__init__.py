"""From rows to token ids, and to the rows of fixed length that pretraining reads."""

"""School mathematics in words: GSM8K."""

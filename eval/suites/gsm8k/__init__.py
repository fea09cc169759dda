"""GSM8K: school mathematics word problems."""

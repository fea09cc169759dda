"""Several run directories against the first: scores paired by item, and what differs in how they were made."""

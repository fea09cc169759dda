"""From the rows of sources to the rows of a stage: filters, splits, mixtures, and an account of every row."""

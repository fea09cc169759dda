"""ARC-Challenge: school science questions that simple methods miss."""

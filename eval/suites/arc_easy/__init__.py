"""ARC-Easy: school science questions that simple methods answer."""

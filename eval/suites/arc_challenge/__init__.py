"""School science, the questions that simple methods miss: ARC-Challenge."""

"""School science, the questions that simple methods answer: ARC-Easy."""

"""Which of two sentences is grammatical? BLiMP's minimal pairs."""

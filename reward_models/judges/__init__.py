"""Language models as judges: their questions, the models that answer, and how the answers are read."""

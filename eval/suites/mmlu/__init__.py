"""Knowledge of 57 subjects: MMLU."""

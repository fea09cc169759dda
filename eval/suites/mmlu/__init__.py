"""MMLU: knowledge of 57 subjects."""

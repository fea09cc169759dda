"""Recipes: YAML whose keys are the fields of a stage's dataclasses."""

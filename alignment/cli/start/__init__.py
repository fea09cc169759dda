"""Verbs of the first hour: copy a recipe, explain its keys, complete commands."""

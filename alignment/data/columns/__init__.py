"""Columns of a data set: their names and paths, their values as text, and labels."""

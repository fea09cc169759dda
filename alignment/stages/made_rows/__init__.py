"""Data stages: rows that a stage makes, part by part, and the folder that holds them."""

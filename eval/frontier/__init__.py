"""Reward against the distance from the reference."""

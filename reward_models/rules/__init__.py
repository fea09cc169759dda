"""Rewards that can be checked by rule, and what they are made of: answers, quantities, algebra, a sandbox for code."""

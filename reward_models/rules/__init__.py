"""Rewards by rule (rules.py): right answers, quantities, algebra, and a sandbox for code."""

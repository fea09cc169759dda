"""Rows of suites: a user's questions, public suites' files, and checks that a task can use its rows."""

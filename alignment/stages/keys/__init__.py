"""Recipe keys whose values are refused before anything runs."""

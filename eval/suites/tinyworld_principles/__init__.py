"""Exact match on tinyworld's requests to judge, criticise and revise held-out replies by a principle."""

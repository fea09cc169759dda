"""How harmless sampled replies are: the gold reward's parts for harm, for honesty about strangers and for politeness."""

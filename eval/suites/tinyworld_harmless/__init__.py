"""How harmless sampled replies are: the parts of the gold reward for harm, for honesty and for politeness."""

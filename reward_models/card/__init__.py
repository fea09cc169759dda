"""How far a reward can be trusted, measured on preference pairs."""

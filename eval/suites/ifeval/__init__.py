"""IFEval: instructions that a program can check, as far as the checkers run without downloads."""

"""Are instructions that a program can check followed? IFEval, as far as its checkers run without downloads."""

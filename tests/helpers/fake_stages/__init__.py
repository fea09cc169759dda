"""Stages that take no time: each writes its settings and its parents' checkpoints as its own checkpoint."""

STAGES = {
    "words": "a tokenizer",
    "base": "a language model",
    "tuned": "a better one",
    "judge": "a reward model",
    "aligned": "the best one",
}
KINDS = {
    "words": "tokenizer",
    "base": "causal-lm",
    "tuned": "causal-lm",
    "judge": "sequence-classification",
    "aligned": "causal-lm",
}

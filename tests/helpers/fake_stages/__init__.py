"""Stages that take no time: each writes its settings and its parents' checkpoints as its own checkpoint."""

from alignment.stages import CLASSIFIER, TOKENIZER, Stage

STAGES = {
    "words": Stage("a tokenizer", "words", "text", TOKENIZER),
    "base": Stage("a language model", "base", "text"),
    "tuned": Stage("a better one", "tuned", "sft"),
    "judge": Stage("a reward model", "judge", "preference", CLASSIFIER),
    "aligned": Stage("the best one", "aligned", "prompts"),
}

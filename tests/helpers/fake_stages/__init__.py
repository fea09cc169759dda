"""Stages that take no time: each writes its settings and its parents' checkpoints as its own checkpoint, or rows."""

from alignment.stages import CLASSIFIER, DATA, TOKENIZER, Stage

STAGES = {
    "words": Stage("a tokenizer", "words", "text", TOKENIZER),
    "base": Stage("a language model", "base", "text"),
    "tuned": Stage("a better one", "tuned", "sft"),
    "judge": Stage("a reward model", "judge", "preference", CLASSIFIER),
    "replies": Stage("rows of a model", "replies", "prompts", DATA),
    "aligned": Stage("the best one", "aligned", "prompts"),
}

"""The stages by name: one module each, imported when it is needed."""

STAGES: dict[str, str] = {
    "tokenizer": "train a byte-level BPE tokenizer on the stage's text",
    "pretrain": "train a language model from random weights (or go on with one)",
    "sft": "fine-tune on instructions and conversations",
    "reward": "train a reward model on preference pairs",
    "dpo": "align on preference pairs with DPO",
    "ppo": "align with PPO against a reward model",
    "grpo": "align with GRPO: rewards of several completions a prompt, compared",
}

# What the checkpoint of a stage is, so that a parent of the wrong kind is found before anything runs.
KINDS: dict[str, str] = {
    "tokenizer": "tokenizer",
    "pretrain": "causal-lm",
    "sft": "causal-lm",
    "reward": "sequence-classification",
    "dpo": "causal-lm",
    "ppo": "causal-lm",
    "grpo": "causal-lm",
}

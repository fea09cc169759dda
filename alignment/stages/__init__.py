"""The table of stages: the facts about each stage that the rest of the code asks for.

A stage is a module of this package with the name of its row (docs/architecture.md says what it holds), imported when
it is needed. This file imports nothing, so that `align --help` answers at once.
"""

from dataclasses import dataclass

# Kinds of checkpoint. A tokenizer comes with any checkpoint, so every kind serves as one.
TOKENIZER, CAUSAL_LM, CLASSIFIER = "tokenizer", "causal-lm", "sequence-classification"
DATA = "data"  # what a data stage writes instead of a checkpoint: rows, for the stages that name it as their data
PARTS = "parts"  # the folder of the rows that an unfinished data stage has made so far

# How much memory the logits of a stage take: those of all tokens at once (our trainers), of the completions alone when
# gradients are taken (PPO), in tiles (TRL's trainers), or none (a classifier).
WHOLE, COMPLETIONS, TILED, NONE = "whole", "completions", "tiled", "none"


@dataclass(frozen=True)
class Stage:
    """Facts about a stage.

    Attributes:
        help: one line for `align --help`.
        label: the name in the report.
        data: the kind of its rows, a key of `alignment.data.reading.formats.KINDS`.
        checkpoint: the kind of checkpoint that it writes, or DATA.
        sequences: sequences per row that the model reads.
        logits: what is held of the logits: WHOLE, COMPLETIONS, TILED or NONE.
        samples: whether it trains on completions that it samples.
        has_reference: whether the policy is compared with a reference model.
        has_critic: whether a critic is trained with the policy.
        fills_rollouts: whether prompts that do not fill a last rollout are left out.
        starts_from_base: whether a base model without a chat template may start it, and is given one.
        drops_long_rows: whether rows longer than max_length are dropped, and not truncated.
        extra_passes: passes without gradients per row of an offline trainer: the reference's, and KTO's for its KL.
        tone: the number of its colour in the report, from 0.
    """

    help: str
    label: str
    data: str
    checkpoint: str = CAUSAL_LM
    sequences: int = 1
    logits: str = TILED
    samples: bool = False
    has_reference: bool = False
    has_critic: bool = False
    fills_rollouts: bool = False
    starts_from_base: bool = False
    drops_long_rows: bool = False
    extra_passes: int = 0
    tone: int | None = None

    @property
    def product(self) -> str:
        """The folder of what it writes, in the stage's folder."""
        return product_of(self.checkpoint)


def product_of(kind: str) -> str:
    """The folder in which a stage writes a checkpoint of this kind, or its rows."""
    return "data" if kind == DATA else "checkpoint"


STAGES: dict[str, Stage] = {
    "tokenizer": Stage(
        help="train a tokenizer: byte-level BPE, or characters",
        label="tokenizer",
        data="text",
        checkpoint=TOKENIZER,
    ),
    "pretrain": Stage(
        help="train a language model from random weights, or continue training one",
        label="pretrain",
        data="text",
        logits=WHOLE,
        tone=4,
    ),
    "sft": Stage(
        help="fine-tune on instructions and conversations",
        label="SFT",
        data="sft",
        starts_from_base=True,
        tone=0,
    ),
    "reward": Stage(
        help="train a reward model on preference pairs",
        label="reward",
        data="preference",
        checkpoint=CLASSIFIER,
        sequences=2,
        logits=NONE,
        drops_long_rows=True,
        tone=3,
    ),
    "dpo": Stage(
        help="align on preference pairs with DPO",
        label="DPO",
        data="preference",
        sequences=2,
        has_reference=True,
        extra_passes=1,
        tone=1,
    ),
    "kto": Stage(
        help="align with KTO on single replies, each labelled as wanted or not",
        label="KTO",
        data="kto",
        has_reference=True,
        extra_passes=3,
    ),
    "ppo": Stage(
        help="align with PPO against a reward model or reward functions",
        label="PPO",
        data="prompts",
        logits=COMPLETIONS,
        samples=True,
        has_reference=True,
        has_critic=True,
        tone=2,
    ),
    "grpo": Stage(
        help="align with GRPO: advantages from the rewards of several completions per prompt",
        label="GRPO",
        data="prompts",
        samples=True,
        has_reference=True,
        fills_rollouts=True,
    ),
    "sample": Stage(
        help="write replies of a checkpoint as rows: all, the best of n, or preference pairs",
        label="samples",
        data="prompts",
        checkpoint=DATA,
    ),
    "judge": Stage(
        help="have AI judges choose between the replies of pairs, by principles",
        label="AI judge",
        data="preference",
        checkpoint=DATA,
    ),
    "critique": Stage(
        help="have a critic criticise and revise replies, by principles",
        label="revisions",
        data="sft",
        checkpoint=DATA,
    ),
}

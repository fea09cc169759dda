"""How well a reward model ranks pairs, beside what preferring the shorter (or longer) reply would give."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GOLD_COLUMNS = ["gold_chosen", "gold_rejected"]
GAP_EDGES = (0.1, 0.3, 0.5, 0.8, 1.2, 2.01)


@torch.no_grad()
def score_conversations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[list[dict]], batch_size: int
) -> np.ndarray:
    """One score a conversation, in batches of like length; token ids as the trainer makes them."""
    rows = [tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"] for messages in conversations]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    scores = np.empty(len(rows))
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        padded = tokenizer.pad(
            {"input_ids": [rows[index] for index in batch]}, padding_side="right", return_tensors="pt"
        )
        scores[batch] = model(**padded.to(model.device)).logits.squeeze(-1).float().cpu()
    model.train(was_training)
    return scores


def judge_pairs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Dataset, min_gap: float, batch_size: int
) -> dict:
    """Score both replies of each pair and compare with the labels; with gold rewards, with the noise-free labels.

    Args:
        pairs: rows {prompt, chosen, rejected} of messages, with gold_chosen and gold_rejected where they are known.
        min_gap: pairs whose gold rewards differ by less are left out.
    """
    replies = {side: [row["prompt"] + row[side] for row in pairs] for side in ("chosen", "rejected")}
    scores = {side: score_conversations(model, tokenizer, talks, batch_size) for side, talks in replies.items()}
    words = {side: np.array([len(talk[-1]["content"].split()) for talk in talks]) for side, talks in replies.items()}
    gold = (
        [np.array(pairs[column]) for column in GOLD_COLUMNS] if set(GOLD_COLUMNS) <= set(pairs.column_names) else None
    )
    return pairwise_card(
        scores["chosen"] - scores["rejected"], words["chosen"] - words["rejected"], gold and gold[0] - gold[1], min_gap
    )


def pairwise_card(
    margins: np.ndarray, extra_words: np.ndarray, gold_gaps: np.ndarray | None = None, min_gap: float = 0.0
) -> dict:
    """Accuracy of a reward model on pairs, and of the best rule that looks at the length alone.

    Args:
        margins: reward of chosen minus reward of rejected, a number a pair.
        extra_words: length of chosen minus length of rejected.
        gold_gaps: gold reward of chosen minus that of rejected: the label without noise is its sign.
        min_gap: pairs with a smaller gold gap are left out.

    Returns:
        {accuracy, se, length_baseline, length_rule, n, left_out, by_gap: [{low, high, n, accuracy}]}; ties count half.
    """
    kept = np.ones(len(margins), bool) if gold_gaps is None else np.abs(gold_gaps) >= min_gap
    sign = np.ones(len(margins)) if gold_gaps is None else np.sign(gold_gaps)
    right = agreement(margins, sign)[kept]
    shorter = float(agreement(-extra_words, sign)[kept].mean())
    card = {
        "accuracy": float(right.mean()),
        "se": float(right.std(ddof=1) / np.sqrt(len(right))),
        "length_baseline": max(shorter, 1 - shorter),
        "length_rule": "shorter" if shorter >= 0.5 else "longer",
        "n": int(kept.sum()),
        "left_out": int((~kept).sum()),
        "min_gap": min_gap,
    }
    if gold_gaps is not None:
        card["by_gap"] = by_gap(right, np.abs(gold_gaps)[kept])
    return card


def agreement(margins: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """1 where a margin has the label's sign, 0 where the other, 0.5 where it is zero."""
    return (1 + np.sign(margins) * sign) / 2


def by_gap(right: np.ndarray, gaps: np.ndarray) -> list[dict]:
    """Accuracy within each range of the gold gap: the histogram of the pairs, and where the model fails."""
    bins = []
    for low, high in itertools.pairwise(GAP_EDGES):
        inside = (gaps >= low) & (gaps < high)
        count = int(inside.sum())
        bins.append({"low": low, "high": high, "n": count, "accuracy": float(right[inside].mean()) if count else None})
    return bins

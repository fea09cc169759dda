"""Predict the peak learning rate and the batch of a pretraining run from its size."""

from __future__ import annotations


def step_law(parameters: int, tokens: int) -> tuple[float, float]:
    """The step law of Li et al. 2025 ("Predictable scale, part I", arXiv 2503.04715), fitted on 3,700 runs of AdamW.

    Their models had 60M to 1B parameters. Far below, searches in recipes/shakespeare-char (0.6M parameters, 3M tokens)
    ended 25 to 40% below the predicted rate. Muon's rate is in AdamW's unit here.

    Args:
        parameters: outside the embeddings and the output layer.
        tokens: trained on in total, including repeats.

    Returns:
        The peak learning rate, and the tokens per optimizer step.
    """
    return 1.79 * parameters**-0.713 * tokens**0.307, 0.58 * tokens**0.571


def compared(parameters: int, tokens: int, learning_rate: float, batch_tokens: int) -> str:
    """The prediction of the step law and the recipe's values, as a line of text."""
    rate, batch = step_law(parameters, tokens)
    return (
        f"usual for this size and data (Li et al. 2025): learning rate {rate:.1e}, {batch:,.0f} tokens per step; "
        f"the recipe has {learning_rate:.1e} at {batch_tokens:,}"
    )

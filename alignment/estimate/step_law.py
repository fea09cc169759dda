"""The peak rate and the batch that a pretraining run's size asks for."""

from __future__ import annotations


def step_law(parameters: int, tokens: int) -> tuple[float, float]:
    """The step law of Li et al. 2025 ("Predictable scale, part I", arXiv 2503.04715), fitted on 3,700 runs of AdamW.

    Their models had 60 M to 1 B parameters. It holds far below as well: searches in recipes/shakespeare-char, at 0.6 M
    parameters and 3 M tokens, ended 25 to 40% below it. Muon's rate here is in AdamW's unit.

    Args:
        parameters: outside the embeddings and the output layer.
        tokens: trained on in all, repeats included.

    Returns:
        The peak learning rate, and the tokens of an optimizer step.
    """
    return 1.79 * parameters**-0.713 * tokens**0.307, 0.58 * tokens**0.571


def beside(parameters: int, tokens: int, learning_rate: float, batch_tokens: int) -> str:
    """A line: what the law says, and what the recipe has."""
    rate, batch = step_law(parameters, tokens)
    return (
        f"by step law (Li et al. 2025) a peak rate of {rate:.1e} at {batch:,.0f} tokens a step; "
        f"the recipe has {learning_rate:.1e} at {batch_tokens:,}"
    )

"""Check that a reward model is read at the token that its score is trained at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from alignment.check.findings import Finding, error, from_user_error, note
from alignment.check.material import Material
from alignment.data.tokenizing.encoding import render
from alignment.models.context_length import context_length
from alignment.stages import CLASSIFIER
from alignment.tokenization.chat_format import Messages, TemplateRefusal, end_of_turn_id
from alignment.tokenization.reward_rows import REPLY, ending_of_tokens, padding_id, reward_rows, score_index

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRIED_PROMPTS = 8


def check_reward_reading(material: Material) -> Iterator[Finding]:
    """Check the token that scores are read at, how completions are read, and whether they fit the reward model."""
    trains_it = material.facts.checkpoint == CLASSIFIER
    tokenizer = material.tokenizer if trains_it else material.origin.reward_tokenizer
    if tokenizer is None or not tokenizer.chat_template:
        return
    prompts = [row["prompt"] for row in material.sample[:TRIED_PROMPTS]]
    try:
        yield from _token_read(tokenizer, prompts[0])
    except TemplateRefusal as refusal:
        if not trains_it:  # find_unusable and check_refused report the template of a stage's own tokenizer
            yield from from_user_error(refusal)
        return
    if not trains_it:
        with suppress(TemplateRefusal):  # check_refused reports prompts that the policy's template refuses
            yield from _sampled(material, tokenizer, prompts)


def _token_read(tokenizer: PreTrainedTokenizerBase, prompt: Messages) -> Iterator[Finding]:
    """Note if scores are read at another token than the end of a reply."""
    import torch

    [row] = reward_rows(tokenizer, [prompt], [[{"role": "assistant", "content": REPLY}]])
    index = int(score_index(torch.tensor([row]), torch.ones(1, len(row)), padding_id(None, tokenizer)))
    if row[index] != end_of_turn_id(tokenizer):
        after = tokenizer.decode(row[index + 1 :])
        skipped = f", before {after!r}, which is its padding" if after else ""
        yield note(
            "in training and in use, the reward model is not read at the token that ends a reply",
            got=f"{tokenizer.decode([row[index]])!r} after {tokenizer.decode(row[:index][-3:])!r}{skipped}",
        )


def _sampled(material: Material, tokenizer: PreTrainedTokenizerBase, prompts: list[Messages]) -> Iterator[Finding]:
    """Report completions that are read as text, or that may not fit the reward model."""
    ids = [render(material.tokenizer, prompt, prompt=True) for prompt in prompts]
    same = tokenizer.get_vocab() == material.tokenizer.get_vocab()
    if not same or ending_of_tokens(tokenizer, prompts, ids) is None:
        yield note(
            "the reward model reads completions as text, through its own tokenizer and chat template",
            got="another vocabulary than the policy's" if not same else "a template that writes prompts differently",
        )
    model, most = material.origin.reward_model, material.get("max_completion_length", 0)
    context = context_length(model.config) if model else None
    longest = min(material.longest + most, material.origin.context or math.inf)  # longer prompts are dropped
    if same and context is not None and longest > context:
        yield error(
            "completions may exceed the reward model's context, and are then not scored",
            got=f"prompts of up to {longest - most} tokens, max_completion_length {most}, {context} positions",
            expected=f"prompt and completion within {context} tokens",
            fix="a smaller max_completion_length, shorter prompts, or a reward model with a longer context",
        )

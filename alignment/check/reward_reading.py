"""Checks of where a reward model is read: at the token that it is, or will be, trained to be read at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError

from alignment.check.findings import Finding, error, note
from alignment.check.material import Material
from alignment.data.tokenizing.encoding import render
from alignment.models.context_length import context_length
from alignment.tokenization.chat_format import end_of_turn_id
from alignment.tokenization.reward_rows import REPLY, Prompt, ending_of_tokens, padding_id, reward_rows, score_index

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRIED_PROMPTS = 8


def check_reward_reading(material: Material) -> Iterator[Finding]:
    """The token that scores are read at, how sampled completions are read, and whether they fit the reward model."""
    tokenizer = material.tokenizer if material.method == "reward" else material.origin.reward_tokenizer
    if tokenizer is None or not tokenizer.chat_template or material.tokenizer is None:
        return
    prompts = [row["prompt"] for row in material.sample[:TRIED_PROMPTS]]
    try:
        yield from _token_read(tokenizer, prompts[0])
        if material.method != "reward":
            yield from _sampled(material, tokenizer, prompts)
    except (TemplateError, TypeError):
        return  # prompts that the template refuses are reported by check_refused


def _token_read(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> Iterator[Finding]:
    import torch

    [row] = reward_rows(tokenizer, [prompt], [[{"role": "assistant", "content": REPLY}]])
    index = int(score_index(torch.tensor([row]), torch.ones(1, len(row)), padding_id(None, tokenizer)))
    if row[index] != end_of_turn_id(tokenizer):
        after = tokenizer.decode(row[index + 1 :])
        skipped = f", before {after!r}, which is its padding" if after else ""
        yield note(
            "the reward model is read at another token than the one that ends a reply, in training and in use",
            got=f"{tokenizer.decode([row[index]])!r} after {tokenizer.decode(row[:index][-3:])!r}{skipped}",
        )


def _sampled(material: Material, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]) -> Iterator[Finding]:
    ids = [render(material.tokenizer, prompt, prompt=True) for prompt in prompts]
    same = tokenizer.get_vocab() == material.tokenizer.get_vocab()
    if not same or ending_of_tokens(tokenizer, prompts, ids) is None:
        yield note(
            "the reward model reads completions as text, through its own tokenizer and chat template",
            got="another vocabulary than the policy's" if not same else "a template that writes prompts otherwise",
        )
    model, most = material.origin.reward_model, material.get("max_completion_length", 0)
    context = context_length(model.config) if model else None
    longest = min(material.longest + most, material.origin.context or math.inf)  # longer prompts are left out
    if same and context is not None and longest > context:
        yield error(
            "completions may be longer than the reward model's context, and are then not scored",
            got=f"prompts of up to {longest - most} tokens, max_completion_length {most}, {context} positions",
            expected=f"at most {context} tokens together",
            fix="a shorter max_completion_length, shorter prompts, or a reward model with more positions",
        )

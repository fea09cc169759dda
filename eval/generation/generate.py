"""Replies of a checkpoint to prompts: greedy or sampled, in batches that do not change the replies.

A sampled reply depends only on the seed, its prompt and its number among the prompt's replies. Its random numbers, one
per token, are drawn from a generator with these as seed, and pick the token by the inverse of its cumulative
distribution. (Rounding may still differ between batch shapes, as it may for greedy replies.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError, raise_all
from alignment.keyed_seeds import keyed_generator
from alignment.models.generation import plain_generation
from alignment.tokenization.chat_format import Messages, apply_template
from reward_models.calls import scores_of
from reward_models.protocol import Reward

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from eval.harness.lm import CausalLM, Reply


@dataclass(frozen=True)
class Sampling:
    """How replies are generated.

    Attributes:
        temperature: 0 for greedy decoding.
        top_p: sample from the likeliest tokens with this total probability.
        max_new_tokens: tokens of a reply at most.
        stop: texts that end a reply, in addition to the checkpoint's stop tokens; a reply is cut before them.
        seed: seed of the sampling.
        batch_size: replies per batch.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        rules = {
            "temperature": ("0 or more, and finite", 0 <= self.temperature < math.inf),
            "top_p": ("above 0, at most 1", 0 < self.top_p <= 1),
            "max_new_tokens": ("1 or more", self.max_new_tokens >= 1),
            "batch_size": ("1 or more", self.batch_size >= 1),
        }
        wrong = [name for name, (_, holds) in rules.items() if not holds]
        raise_all(
            [UserError(f"{name} is out of range", got=getattr(self, name), expected=rules[name][0]) for name in wrong]
        )


def load_prompts(source: str, split: str | None = None, limit: int | None = None) -> tuple[Dataset, str]:
    """Rows {prompt: messages, ...other columns} of a file, tinyworld or the hub, and a line with their numbers.

    Args:
        source: as a recipe's `dataset_name`.
        split: None for `train`.
        limit: number of rows, from the first; None for all.

    Raises:
        UserError: the source cannot be read, or no row has a prompt.
    """
    from alignment.data.arguments import Source
    from alignment.data.preparing.parts import read_part

    if limit is not None and limit < 1:
        raise UserError("no prompt is asked for", got=f"limit {limit}", expected="1 or more")
    split = split or "train"
    part = read_part(Source(source, split=split), split, split, "prompts", keep=None)
    if limit is not None and limit < len(part.rows):
        part.account.remove(f"beyond the first {limit}", len(part.rows) - limit)
        part.select(range(limit))
    return part.rows, str(part.account)


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], format: str) -> list[list[int]]:
    """Token ids of each prompt: through the chat template (chat), or the messages with blank lines between (plain).

    A plain prompt without tokens becomes the token that begins a text, as in lm-eval.
    """
    if format == "plain":
        texts = ["\n\n".join(message["content"] for message in prompt) for prompt in prompts]
        begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return [ids or [begin] for ids in tokenizer(texts)["input_ids"]]
    if not tokenizer.chat_template:
        raise UserError(
            "The chat format needs a tokenizer with a chat template.",
            got="a tokenizer without one",
            fix="use --format plain, or a checkpoint of the sft stage or a later one",
        )
    encoded = apply_template(tokenizer, list(prompts), add_generation_prompt=True, return_dict=True)
    return encoded["input_ids"]


def fitting(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], max_new_tokens: int
) -> list[int]:
    """Positions of the prompts (token ids) that leave room for a reply in the model's context.

    Raises:
        UserError: no prompt does.
    """
    from eval.harness.lm import context_limit

    room = context_limit(model, tokenizer) - max_new_tokens
    places = [place for place, prompt in enumerate(prompts) if len(prompt) <= room]
    if not places:
        raise UserError(
            "no prompt leaves room for a reply",
            got=f"prompts of {min(map(len, prompts))} tokens or more, max_new_tokens={max_new_tokens}",
            expected=f"at most {room + max_new_tokens} tokens in total, the model's context",
            fix="use a smaller --max_new_tokens, or shorter prompts",
        )
    return places


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    n: int = 1,
    first: Sequence[int] | None = None,
) -> list[list[Reply]]:
    """`n` replies to each prompt (token ids), in the order of the prompts.

    A reply ends as in the eval suites: at a token of `generation_config.eos_token_id` or the tokenizer's end of text.
    No other setting of the checkpoint's generation config applies. Equal prompts get different replies.

    Args:
        first: as for `reply_keys`.

    Raises:
        UserError: a prompt leaves no room for its reply.
    """
    from eval.harness.lm import CausalLM
    from eval.harness.suite import quiet_lm_eval

    with quiet_lm_eval():
        lm = CausalLM(model, tokenizer, sampling.batch_size)
    longest = max(map(len, prompts), default=0)
    if longest + sampling.max_new_tokens > lm.context:
        raise UserError(
            "a prompt does not fit into the model's context with its reply",
            got=f"{longest} prompt tokens + {sampling.max_new_tokens} for the reply",
            expected=f"at most {lm.context} in total",
            fix="leave such prompts out (see `fitting`), or use a smaller max_new_tokens",
        )
    with plain_generation(model):
        replies = _replies(lm, reply_keys(prompts, n, first), sampling)
    return [replies[start : start + n] for start in range(0, len(replies), n)]


def _replies(lm: CausalLM, keys: Sequence[tuple[tuple[int, ...], int]], sampling: Sampling) -> list[Reply]:
    """A reply to each key (prompt, number), in the order of the keys; batches run from the longest prompt."""
    from alignment.progress import passing_line

    replies: list[Any] = [None] * len(keys)
    order = sorted(range(len(keys)), key=lambda row: (-len(keys[row][0]), keys[row]))
    with passing_line("replies", len(order)) as line:
        for start in range(0, len(order), sampling.batch_size):
            batch = order[start : start + sampling.batch_size]
            options = {"until": list(sampling.stop), "max_gen_toks": sampling.max_new_tokens, "do_sample": False}
            if sampling.temperature:
                options["logits_processor"] = [keyed_sampler([keys[row] for row in batch], sampling)]
            for row, reply in zip(batch, lm.reply([list(keys[row][0]) for row in batch], options), strict=True):
                replies[row] = reply
            line.count_to(start + len(batch))
    return replies


def reply_keys(
    prompts: Sequence[list[int]], n: int, first: Sequence[int] | None = None
) -> list[tuple[tuple[int, ...], int]]:
    """(prompt, number of the reply to this prompt) for `n` replies to each prompt, in order.

    Args:
        first: for each prompt the number of its first reply, if these are part of a longer list (`first_numbers`).
    """
    starts = first_numbers(prompts, n) if first is None else first
    return [
        (tuple(prompt), start + number) for prompt, start in zip(prompts, starts, strict=True) for number in range(n)
    ]


def first_numbers(prompts: Sequence[list[int]], n: int) -> list[int]:
    """The number of each prompt's first reply, so that equal prompts get different ones."""
    seen: Counter[tuple[int, ...]] = Counter()
    starts = []
    for prompt in map(tuple, prompts):
        starts.append(seen[prompt])
        seen[prompt] += n
    return starts


def keyed_sampler(keys: Sequence[tuple], sampling: Sampling) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A logits processor that leaves each row the token that its own random numbers pick.

    Args:
        keys: the key of each row, on which, with the seed, its random numbers depend.
    """
    import torch
    from transformers import TopPLogitsWarper

    numbers = torch.stack(
        [
            torch.rand(
                sampling.max_new_tokens,
                generator=keyed_generator(sampling.seed, *key),
                dtype=torch.float64,
            )
            for key in keys
        ]
    )
    steps = iter(range(sampling.max_new_tokens))

    def pick(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(batch, length) token ids, (batch, vocabulary) logits -> logits of 0 at the picked token, -inf elsewhere."""
        scores = scores.float() / sampling.temperature
        if sampling.top_p < 1:
            scores = TopPLogitsWarper(sampling.top_p)(input_ids, scores)
        cumulative = scores.double().softmax(-1).cumsum(-1)
        wanted = numbers[:, next(steps), None].to(scores.device) * cumulative[:, -1:]
        # The first token past the number; `right` skips tokens of probability 0.
        picked = torch.searchsorted(cumulative, wanted, right=True)
        return torch.full_like(scores, -torch.inf).scatter(1, picked, 0.0)

    return pick


def score(reward: Reward, rows: Sequence[dict], replies: Sequence[str]) -> list[float | None]:
    """A reward's score of a reply to each row {prompt: messages, ...columns}; None for no opinion.

    Raises:
        UserError: the reward fails, or does not return a finite number or None for each reply.
    """
    names = {name: None for row in rows for name in row if name not in ("prompt", "completion")}
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in names}
    completions = [[{"role": "assistant", "content": reply}] for reply in replies]
    return scores_of(reward, [row["prompt"] for row in rows], completions, columns)

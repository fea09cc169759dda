"""Rollouts: the order of the prompts, sampling of completions, and their tensors."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation import ContinuousBatchingConfig
from trl import is_conversational

from alignment.keyed_seeds import keyed_generator
from alignment.models.generation import plain_generation
from alignment.models.output_layer import contiguous_states
from alignment.models.router import no_router_logits
from alignment.tokenization.chat_format import apply_template


class RolloutSampler(Sampler):
    """Row numbers for a DataLoader that repeats each rollout's prompts once per micro-batch that is trained on them.

    The order depends only on the seed and the epoch. The first rows of the order fill up the last rollout.
    """

    def __init__(self, num_rows: int, rollout_size: int, repeats: int, seed: int):
        self.num_rows, self.rollout_size, self.repeats, self.seed = num_rows, rollout_size, repeats, seed
        self.num_rollouts = -(-num_rows // rollout_size)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rollouts * self.rollout_size * self.repeats

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.num_rows, generator=keyed_generator("prompts", self.seed, self.epoch))
        places = torch.arange(self.num_rollouts * self.rollout_size) % self.num_rows
        for rows in order[places].split(self.rollout_size):
            for _ in range(self.repeats):
                yield from rows.tolist()


@dataclass(frozen=True)
class Rollout:
    """B prompts with a completion each. Every row ends in the last column: trimming leading columns drops only padding.

    Attributes:
        input_ids: [B, L], prompt and completion, end-of-sequence token included.
        attention_mask: [B, L].
        completion_mask: [B, T], for the last T columns.
        terminated: [B], whether an end-of-sequence token ended the completion, rather than the length limit.
        sampler_log_probs: [B, T], the sampler's own log-probabilities; None if they were not recorded.
    """

    input_ids: Tensor
    attention_mask: Tensor
    completion_mask: Tensor
    terminated: Tensor
    sampler_log_probs: Tensor | None = None

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of prompt and completion. -> [B]."""
        return self.attention_mask.sum(1)

    @property
    def token_ids(self) -> list[list[int]]:
        """Token ids of prompt and completion of each row, without padding."""
        return [ids[mask].tolist() for ids, mask in zip(self.input_ids, self.attention_mask, strict=True)]

    @property
    def completion_ids(self) -> list[list[int]]:
        """Token ids of each completion, without padding."""
        ids = self.input_ids[:, -self.completion_mask.shape[1] :]
        return [row[mask].tolist() for row, mask in zip(ids, self.completion_mask, strict=True)]

    def row(self, index: int) -> "Rollout":
        """A rollout of one row, with its padding, without the sampler's log-probabilities."""
        row = slice(index, index + 1)
        return Rollout(self.input_ids[row], self.attention_mask[row], self.completion_mask[row], self.terminated[row])

    def batch(self, rows: Tensor, **per_token: Tensor) -> dict[str, Tensor]:
        """The given rows without the columns that are padding in all of them.

        Args:
            per_token: further tensors, [B, T], cut to the same rows and columns as `completion_mask`.
        """
        width = int(self.lengths[rows].max())
        length = int(self.completion_mask[rows].sum(1).max())
        per_token = {"completion_mask": self.completion_mask, **per_token}
        return {
            "input_ids": self.input_ids[rows, -width:],
            "attention_mask": self.attention_mask[rows, -width:],
            "completion_ids": self.input_ids[rows, -length:],
            **{name: tensor[rows, -length:] for name, tensor in per_token.items()},
        }

    def micro_batches(self, order: Tensor, size: int, accumulation: int) -> list[Tensor]:
        """Split an order of rows into micro-batches; an optimizer step's rows are sorted by length to save padding."""
        if accumulation == 1:
            return list(order.split(size))
        steps = order.split(size * accumulation)
        by_length = [rows[self.lengths[rows].argsort(descending=True, stable=True)] for rows in steps]
        return [rows for step in by_length for rows in step.split(size)]


def as_rows(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Data collator that leaves the rows unchanged."""
    return {"rows": rows}


def encode_prompts(rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of each row's `prompt`: text, or messages through the chat template with a generation prompt."""
    if is_conversational({"prompt": rows[0]["prompt"]}):
        prompts = [row["prompt"] for row in rows]
        return apply_template(tokenizer, prompts, add_generation_prompt=True, return_dict=True)["input_ids"]
    return tokenizer([row["prompt"] for row in rows])["input_ids"]


def sample(
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    max_completion_length: int,
    temperature: float,
    eos_token_ids: list[int],
    pad_token_id: int,
    log_probs: bool = False,
) -> Rollout:
    """Sample one completion per prompt from the model's distribution at a temperature, up to any EOS token.

    Args:
        log_probs: record the sampler's own log-probabilities; the logits of all tokens are kept in memory for them.
    """
    device, width = model.device, max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    ids = [[pad_token_id] * pad + prompt for pad, prompt in zip(padding, prompts, strict=True)]
    prompt_mask = torch.arange(width)[None] >= torch.tensor(padding)[:, None]
    config = _plain_sampling(max_completion_length, temperature, eos_token_ids, pad_token_id)
    config.output_scores = config.return_dict_in_generate = log_probs
    inputs, attention_mask = torch.tensor(ids, device=device), prompt_mask.long().to(device)
    with plain_generation(model), contiguous_states(model), no_router_logits(model):
        output = model.generate(inputs, attention_mask=attention_mask, generation_config=config)
    sequences = output.sequences if log_probs else output
    rollout = _to_rollout(sequences, prompt_mask.to(device), torch.tensor(eos_token_ids, device=device))
    if not log_probs:
        return rollout
    chosen = sequences[:, width:, None]
    scores = torch.stack(output.scores, 1).float().log_softmax(-1).gather(-1, chosen)[..., 0]
    rows = [row[: len(ids)].tolist() for row, ids in zip(scores, rollout.completion_ids, strict=True)]
    return replace(rollout, sampler_log_probs=_right_aligned(rows, rollout))


def sample_continuously(
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    max_completion_length: int,
    temperature: float,
    eos_token_ids: list[int],
    pad_token_id: int,
) -> Rollout:
    """`sample` by transformers' continuous batching; records the sampler's own log-probabilities.

    Autocast is off, since the engine's cache has the type of the weights and accepts no other type.
    """
    page = 32
    pages = sum(-(-(len(prompt) + max_completion_length) // page) + 1 for prompt in prompts)
    # By default the engine takes nine tenths of the free memory, which training needs.
    engine = ContinuousBatchingConfig(
        page_size=page,
        num_blocks=pages,
        max_batch_tokens=max(256, len(prompts), max(map(len, prompts))),
        return_logprobs=True,
        seed=torch.initial_seed() % 2**31,
    )
    config = _plain_sampling(max_completion_length, temperature, eos_token_ids, pad_token_id)
    attention = model.config._attn_implementation
    with torch.autocast(model.device.type, enabled=False), no_router_logits(model):
        outputs = model.generate_batch(prompts, config, engine, progress_bar=False, warmup=False)
    model.set_attn_implementation(attention)
    if len(outputs) < len(prompts) or any(output.error for output in outputs.values()):
        raise RuntimeError(f"continuous batching failed: {next((o.error for o in outputs.values() if o.error), None)}")
    return _from_outputs(list(outputs.values()), prompts, eos_token_ids, pad_token_id, model.device)


def _plain_sampling(
    max_completion_length: int, temperature: float, eos_token_ids: list[int], pad_token_id: int
) -> GenerationConfig:
    """Generation config that samples from the model's full distribution, without top-k or top-p."""
    return GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        max_new_tokens=max_completion_length,
        eos_token_id=eos_token_ids,
        pad_token_id=pad_token_id,
        use_cache=True,
    )


def _from_outputs(
    outputs: list[Any], prompts: list[list[int]], eos_token_ids: list[int], pad_token_id: int, device: torch.device
) -> Rollout:
    completions = [output.generated_tokens for output in outputs]
    rollout = rollout_of(prompts, completions, eos_token_ids, pad_token_id, device)
    return replace(rollout, sampler_log_probs=_right_aligned([output.logprobs for output in outputs], rollout))


def rollout_of(
    prompts: list[list[int]],
    completions: list[list[int]],
    eos_token_ids: list[int],
    pad_token_id: int,
    device: torch.device,
) -> Rollout:
    """Make a rollout of given prompts and completions; each completion ends with its first end-of-sequence token."""
    width, longest = max(map(len, prompts)), max(map(len, completions))
    rows = [
        [pad_token_id] * (width - len(prompt)) + prompt + completion + [pad_token_id] * (longest - len(completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    prompt_mask = torch.tensor([[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    eos = torch.tensor(eos_token_ids, device=device)
    return _to_rollout(torch.tensor(rows, device=device), prompt_mask.to(device), eos)


def _right_aligned(rows: list[list[float]], rollout: Rollout) -> Tensor:
    """Put values of each row's completion tokens into the rollout's columns. -> [B, T], 0 off the mask."""
    values = torch.zeros(rollout.completion_mask.shape, device=rollout.input_ids.device)
    for row, own in zip(values, rows, strict=True):
        row[len(row) - len(own) :] = torch.tensor(own)
    return values


SAMPLERS = {"generate": sample, "continuous_batching": sample_continuously}


def _to_rollout(sequences: Tensor, prompt_mask: Tensor, eos_token_ids: Tensor) -> Rollout:
    """Find the end of each completion, and shift every row to the right so that it ends in the last column."""
    width, total = prompt_mask.shape[1], sequences.shape[1]
    is_eos = torch.isin(sequences[:, width:], eos_token_ids)
    terminated = is_eos.any(1)
    lengths = torch.where(terminated, is_eos.int().argmax(1) + 1, total - width)
    columns = torch.arange(total, device=sequences.device)[None]
    shift = (total - width - lengths)[:, None]
    source = (columns - shift) % total
    in_completion = columns >= total - lengths[:, None]
    in_prompt = torch.nn.functional.pad(prompt_mask, (0, total - width)).gather(1, source)
    longest = int(lengths.max())
    return Rollout(
        input_ids=sequences.gather(1, source),
        attention_mask=in_prompt | in_completion,
        completion_mask=in_completion[:, -longest:],
        terminated=terminated,
    )

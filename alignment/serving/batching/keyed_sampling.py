"""Sampling for continuous batching in which a reply depends on its own seed alone, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)

from alignment.keyed_seeds import keyed_generator

if TYPE_CHECKING:
    from transformers.generation.continuous_batching.requests import FutureRequestState

BeforePass = Callable[["list[FutureRequestState]"], None]
NOT_SCORED = -1  # `top_logprobs` of a request that asks for no log-probabilities


@dataclass(frozen=True)
class Sampling:
    """How a reply is sampled.

    Attributes:
        temperature: 0 for greedy decoding.
        top_p: smallest probability of the most likely tokens that are kept.
        top_k: number of the most likely tokens that are kept; 0 for all.
        seed: key of the noise, together with the position.
        top_logprobs: number of the most likely tokens whose log-probability is reported along with the chosen token's.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    top_logprobs: int = NOT_SCORED


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of a sampled token and of the most likely tokens.

    They are those of the model's own distribution, before temperature, top_k and top_p.
    """

    logprob: float
    top: list[tuple[int, float]]


class KeyedSampling(ContinuousBatchingLogitsProcessor):
    """Adds noise to log-probabilities so that the engine's argmax is a sample (Gumbel-max trick).

    The noise of a token is keyed by the request's seed and the absolute position: neither the other requests of the
    batch nor a request that is evicted and computed again changes a reply.
    """

    supported_kwargs = {"temperature": float, "top_p": float, "top_k": int, "seed": int, "top_logprobs": int}
    ignored_kwargs = ()

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, Sampling]] = []
        # By request, in the order of its tokens; of requests that ask, entered and removed by them.
        self.scored: dict[str, list[Scored]] = {}

    def as_list(self, before: BeforePass | None = None) -> ContinuousBatchingLogitsProcessorList:
        """Return the engine's list of processors with this one alone.

        Args:
            before: called with all requests of a forward pass, before it.
        """
        return _WithBefore(self, before)

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> torch.Tensor:
        """Keep the rows' options: seeds do not fit into the tensor of 32-bit integers that the engine passes on."""
        states = [request.state for request in requests_with_new_token]
        self.rows = [(one.request_id, one.position_offset, Sampling(**one.logit_processor_kwargs)) for one in states]
        return torch.zeros(len(self.rows), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """Return the scores, (rows, vocabulary), whose argmax is the next token of each row."""
        asked = [row for row, (_, _, options) in enumerate(self.rows) if options.top_logprobs != NOT_SCORED]
        plain = torch.log_softmax(scores[asked], dim=-1) if asked else None
        for row, (_, position, options) in enumerate(self.rows):
            if options.temperature > 0:
                scores[row] = with_noise(kept(scores[row] / options.temperature, options), options.seed, position)
        if plain is not None:
            chosen = scores[asked].argmax(dim=-1).tolist()
            for row, token, logprobs in zip(asked, chosen, plain, strict=True):
                name, _, options = self.rows[row]
                scored = self.scored.get(name)
                if scored is not None:  # otherwise the client has gone
                    scored.append(_scored(logprobs, token, options.top_logprobs))
        return scores


class _WithBefore(ContinuousBatchingLogitsProcessorList):
    """A list of one processor, which lets another see the requests of each forward pass."""

    def __init__(self, sampling: KeyedSampling, before: BeforePass | None):
        super().__init__(LogitsProcessorList([sampling]))
        self.tensors_required, self.before = 1, before

    def prepare_tensor_args(
        self, requests_in_batch: list[FutureRequestState], arg_storage: torch.Tensor
    ) -> torch.Tensor:
        if self.before is not None:
            self.before(requests_in_batch)
        return super().prepare_tensor_args(requests_in_batch, arg_storage)


def kept(logits: torch.Tensor, options: Sampling) -> torch.Tensor:
    """Return the log-probabilities, (vocabulary,), with minus infinity for tokens that top_k or top_p removes."""
    logprobs = torch.log_softmax(logits, dim=-1)
    if 0 < options.top_k < len(logprobs):
        least = logprobs.topk(options.top_k).values[-1]
        logprobs = logprobs.masked_fill(logprobs < least, -torch.inf)
    if options.top_p < 1:
        ordered, order = torch.log_softmax(logprobs, dim=-1).exp().sort(descending=True, stable=True)
        beyond = ordered.cumsum(dim=-1) - ordered >= options.top_p  # the first token is never beyond
        logprobs[order[beyond]] = -torch.inf
    return logprobs


def with_noise(logprobs: torch.Tensor, seed: int, position: int) -> torch.Tensor:
    """Return log-probabilities plus Gumbel noise, (vocabulary,)."""
    uniform = uniforms(len(logprobs), keyed_generator("served reply", seed, position)).to(logprobs)
    return logprobs - (-torch.log1p(-uniform)).log()


def uniforms(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return random numbers in (0, 1), float32, (count,).

    They are drawn on the CPU, the same for every device. The smallest have 48 random bits: with torch's 24, every 80th
    draw of a vocabulary of 200,000 would have a number of 0, and its token would win whatever its probability.
    """
    coarse, fine = torch.rand(2, count, generator=generator)
    return (coarse + fine * 2**-24).clamp(2**-60, 1 - 2**-24)


def arguments(sampling: Sampling) -> dict[str, float | int]:
    """Return the options as `add_request` takes them, in the types that it checks."""
    return asdict(sampling)


def _scored(logprobs: torch.Tensor, token: int, count: int) -> Scored:
    best = logprobs.topk(min(count, len(logprobs))) if count else None
    top = [] if best is None else list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Scored(logprobs[token].item(), top)

"""The language model that lm-eval asks: batched generation with exact lengths, and log-likelihoods sorted by length.

lm-eval's own `HFLM.generate_until` decodes before it looks for stops, stops a batch only when its slowest row has met a
stop string, cuts long prompts with a warning, and keeps no reply lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import trange
from transformers import StoppingCriteria

from alignment.errors import UserError

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Reply:
    """A generated reply: its text without stop or special tokens, its length in tokens (the stop included), whether the
    length limit cut it off, and its tokens as generated, as many as `gen_len`."""

    text: str
    gen_len: int
    truncated: bool
    token_ids: tuple[int, ...] = ()


class StopAtText(StoppingCriteria):
    """Stops each row once its newly generated text holds one of the stop strings."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: list[str], prompt_length: int):
        self.tokenizer, self.stops, self.prompt_length = tokenizer, stops, prompt_length
        # A token is at least one byte, so a stop that the newest token completes lies within this many tokens.
        self.lookback = max(len(stop.encode()) for stop in stops)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs) -> torch.Tensor:
        """(batch, length) token ids -> (batch,) bool."""
        recent = input_ids[:, self.prompt_length :][:, -self.lookback :]
        texts = self.tokenizer.batch_decode(recent)
        return torch.tensor([any(stop in text for stop in self.stops) for text in texts], device=input_ids.device)


def context_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens the model may see at once, from its config, else from its tokenizer."""
    config = model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        if isinstance(getattr(config, name, None), int):
            return getattr(config, name)
    return int(min(tokenizer.model_max_length, 2048))


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a reply: `generation_config.eos_token_id` and the tokenizer's end of text."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [*ids, tokenizer.eos_token_id] if i is not None})


class CausalLM(HFLM):
    """A loaded causal LM (or PEFT model) and its tokenizer, as lm-eval's model class.

    Args:
        model: in evaluation mode and on its device.
        tokenizer: used as it is; a missing pad token is set by lm-eval.
        batch_size: rows of a batch; batches are formed from requests of similar length.

    After `generate_until`, `replies` maps (task name, document index) to the list of replies given.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int):
        self.context = context_length(model, tokenizer)
        super().__init__(
            pretrained=model, tokenizer=tokenizer, backend="causal", max_length=self.context, batch_size=batch_size
        )
        self.stop_ids = stop_tokens(model, self.tokenizer)
        self.replies: dict[tuple[str, int], list[Reply]] = {}

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Replies to `requests` in their order; longest prompts first, requests with equal settings together.

        Raises:
            UserError: a prompt leaves no room for its reply within the model's context.
        """
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        settings = [repr(sorted(request.args[1].items())) for request in requests]
        order = sorted(range(len(requests)), key=lambda i: (settings[i], -len(prompts[i]), prompts[i]))
        found: list[Reply | None] = [None] * len(requests)
        for _, group in groupby(order, key=lambda i: settings[i]):
            rows = list(group)
            options = normalize_gen_kwargs(requests[rows[0]].args[1], self.max_gen_toks)
            self._require_room(len(prompts[rows[0]]), options["max_gen_toks"], requests[rows[0]].task_name)
            for start in trange(0, len(rows), self.batch_size, desc="batches", disable=None, leave=False):
                batch = rows[start : start + self.batch_size]
                for i, reply in zip(batch, self.reply([prompts[i] for i in batch], options), strict=True):
                    found[i] = reply
        for request, reply in zip(requests, found, strict=True):
            self.replies.setdefault((request.task_name, request.doc_id), []).append(reply)
        return [reply.text for reply in found]

    def reply(self, prompts: list[list[int]], options: dict) -> list[Reply]:
        """One batch of prompts (token ids) -> replies. `options` are lm-eval's normalised generation settings."""
        options = dict(options)
        stops, limit = [stop for stop in options.pop("until") if stop], options.pop("max_gen_toks")
        if not options["do_sample"]:
            options.pop("temperature", None)
        inputs = self.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(self.device)
        width = inputs["input_ids"].shape[1]
        output = self.model.generate(
            **inputs,
            max_new_tokens=limit,
            eos_token_id=self.stop_ids,
            pad_token_id=self.tokenizer.pad_token_id,
            stopping_criteria=[StopAtText(self.tokenizer, stops, width)] if stops else None,
            **options,
        )
        return [self._read(row, stops, limit) for row in output[:, width:].tolist()]

    def _read(self, tokens: list[int], stops: list[str], limit: int) -> Reply:
        """Cut generated token ids at the first stop token or stop string; what follows in a batch is padding."""
        end = next((i for i, token in enumerate(tokens) if token in self.stop_ids), None)
        text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        cuts = [text.index(stop) for stop in stops if stop in text]
        if cuts:
            prefixes = (self.tokenizer.decode(tokens[:length], skip_special_tokens=True) for length in range(limit + 1))
            length = next(i for i, prefix in enumerate(prefixes) if any(stop in prefix for stop in stops))
            return Reply(text[: min(cuts)], length, truncated=False, token_ids=tuple(tokens[:length]))
        length = len(tokens) if end is None else end + 1
        return Reply(text, length, truncated=end is None, token_ids=tuple(tokens[:length]))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """As lm-eval's, but refuses what would not fit instead of cutting it from the left."""
        for request in requests:
            self._require_room(len(self.tok_encode("".join(request.args))) - 1, 0, request.task_name)
        return super().loglikelihood(requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """As lm-eval's, with texts of similar length in one batch. Long texts are scored in windows, none is cut."""
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].args[0]))
        # lm-eval conditions the first token on the BOS token; one that the tokenizer adds would be scored as text.
        before, self.add_bos_token = self.add_bos_token, False
        try:
            sums = super().loglikelihood_rolling([requests[i] for i in order], disable_tqdm=True)
        finally:
            self.add_bos_token = before
        return [total for _, total in sorted(zip(order, sums, strict=True))]

    def _loglikelihood_tokens(self, requests, disable_tqdm=True, override_bs=None) -> list[tuple[float, bool]]:
        """As lm-eval's, without a progress bar for every batch."""
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def _require_room(self, prompt: int, reply: int, task: str) -> None:
        if prompt + reply > self.context:
            raise UserError(
                f"A prompt of task {task!r} does not fit into the model's context.",
                got=f"{prompt} prompt tokens + {reply} for the reply",
                needed=f"at most {self.context} together",
                mend="use fewer few-shot examples or a smaller max_gen_toks, or leave the task out",
            )

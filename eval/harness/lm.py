"""The model class for lm-eval: batched generation with exact lengths, and log-likelihoods sorted by length.

lm-eval's own `HFLM.generate_until` decodes before it looks for stops, stops a batch only when its slowest row has met a
stop string, cuts long prompts with a warning, and keeps no reply lengths. Its log-likelihoods use logits at all
positions, including padding: with a large vocabulary that is most of the work.
"""

from __future__ import annotations

import inspect
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria

from alignment.errors import UserError
from alignment.models.context_length import context_length
from alignment.models.generation import ONE_REPLY, SAMPLING, end_token_ids, own_settings, settings_named
from alignment.models.output_layer import contiguous_states
from alignment.progress import passing_line
from alignment.tokenization.chat_format import apply_template
from eval.conditions.left_out import to_fit
from eval.harness.chat_prompt import render_chat

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """A generated reply.

    Attributes:
        text: without stop or special tokens.
        gen_len: length in tokens, including the stop.
        truncated: whether the length limit cut the reply.
        token_ids: the `gen_len` generated tokens.
    """

    text: str
    gen_len: int
    truncated: bool
    token_ids: tuple[int, ...] = ()


class StopAtText(StoppingCriteria):
    """Stops each row when its generated text contains a stop string."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: list[str], prompt_length: int):
        self.tokenizer, self.stops, self.prompt_length = tokenizer, stops, prompt_length
        # A token is at least one byte, so a stop that the newest token completes lies within this many tokens.
        self.lookback = max(len(stop.encode()) for stop in stops)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs: object) -> torch.Tensor:
        """Return (batch,) bool for (batch, length) token ids."""
        recent = input_ids[:, self.prompt_length :][:, -self.lookback :]
        texts = self.tokenizer.batch_decode(recent)
        return torch.tensor([any(stop in text for stop in self.stops) for text in texts], device=input_ids.device)


class RefuseNan(LogitsProcessor):
    """Refuses logits that are not numbers: a greedy reply would repeat the first token of the vocabulary."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        require_numbers(scores)
        return scores


def require_numbers(values: torch.Tensor) -> None:
    """Raise for logits or log-likelihoods that are NaN; negative infinity, of a token ruled out, is a number."""
    if values.isnan().any():
        raise UserError(
            "The model's logits are not numbers.",
            got="NaN",
            expected="finite logits",
            fix="restore the weights from an earlier checkpoint: these overflow, or hold NaN",
        )


def context_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The model's context length in tokens, from its config, or otherwise from its tokenizer."""
    return context_length(model.config) or int(min(tokenizer.model_max_length, 2048))


@contextmanager
def _ties_kept(model: PreTrainedModel) -> Iterator[None]:
    """Keep lm-eval from tying weights again, which fails if PEFT has wrapped embeddings to train some of their rows."""
    tied = getattr(model.config, "tie_word_embeddings", False)
    if not tied:
        yield
        return
    model.config.tie_word_embeddings = False
    try:
        yield
    finally:
        model.config.tie_word_embeddings = tied


class CausalLM(HFLM):
    """lm-eval's model class for a loaded causal LM (or PEFT model) and its tokenizer.

    Generation settings of the checkpoint (such as a repetition penalty) apply to `generate_until`, as in lm-eval's own
    model class, and a warning names them.

    Args:
        model: in evaluation mode and on its device.
        tokenizer: used unchanged; lm-eval sets a missing pad token.
        batch_size: rows per batch; batches are formed from requests of similar length.
        too_long: what to do about requests that do not fit into the context: `refuse` them with an error, or `skip`
            them, with an empty reply or a log-likelihood of 0 that the caller has to leave out.
        ends: further token ids and texts that end a reply.
        with_examples: names of the tasks that draw few-shot examples, for advice.

    Attributes:
        replies: (task name, document index) -> the replies of `generate_until`.
        skipped: (task name, document index) of the requests that were skipped.
    """

    add_bos_token: bool | None  # of HFLM

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        *,
        too_long: str = "refuse",
        ends: tuple[list[int], list[str]] = ([], []),
        with_examples: Collection[str] = (),
    ):
        self.context = context_limit(model, tokenizer)
        has_spare = any((tokenizer.pad_token, tokenizer.unk_token, tokenizer.eos_token))
        options = {"backend": "causal", "max_length": self.context, "batch_size": batch_size}
        with _ties_kept(model):
            super().__init__(pretrained=model, tokenizer=tokenizer, **options)
        # Otherwise lm-eval adds a token, of which the model has no row; padding is masked, so that any token will do.
        self.padding = self.tokenizer.pad_token_id if has_spare else 0
        self.stop_ids = sorted({*end_token_ids(model, self.tokenizer), *ends[0]})
        self.stop_texts = ends[1]
        self.too_long, self.with_examples = too_long, with_examples
        self.skipped: set[tuple[str, int]] = set()
        self.replies: dict[tuple[str, int], list[Reply]] = {}
        forward = getattr(model, "get_base_model", lambda: model)().forward
        self.accepted = inspect.signature(forward).parameters.keys()
        self.encoded: dict[str, list[int]] = {}
        self.warned: set[str] = set()

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Like lm-eval's method, but a description stays in the prompt if the template has no system role."""
        options = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        options |= {"tokenize": False, **self.chat_template_args}
        return render_chat(lambda turns: apply_template(self.tokenizer, turns, **options), chat_history)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Generate replies, returned in the order of `requests`.

        Requests with equal settings are batched together, longest prompts first. An empty prompt is the BOS token.

        Raises:
            UserError: a prompt leaves no room for its reply within the model's context, and may not be skipped.
        """
        encoded = self._encode([request.args[0] for request in requests])
        prompts = [encoded[request.args[0]] or [self._begin()] for request in requests]
        settings = [repr(sorted(request.args[1].items())) for request in requests]
        limits = {
            text: normalize_gen_kwargs(request.args[1], self.max_gen_toks)["max_gen_toks"]
            for text, request in zip(settings, requests, strict=True)
        }
        fits = self._fitting(
            requests, [(len(prompt), limits[text]) for prompt, text in zip(prompts, settings, strict=True)]
        )
        order = sorted(fits, key=lambda i: (settings[i], -len(prompts[i]), prompts[i]))
        found: dict[int, Reply] = {}
        for _, group in groupby(order, key=lambda i: settings[i]):
            rows = list(group)
            options = normalize_gen_kwargs(requests[rows[0]].args[1], self.max_gen_toks)
            self._warn_of_settings(options["do_sample"])
            with passing_line("replies", len(rows)) as line:
                for start in range(0, len(rows), self.batch_size):
                    batch = rows[start : start + self.batch_size]
                    found |= zip(batch, self.reply([prompts[i] for i in batch], options), strict=True)
                    line.count_to(start + len(batch))
        replies = [found.get(i, Reply("", 0, truncated=False)) for i in range(len(requests))]
        for request, reply in zip(requests, replies, strict=True):
            self.replies.setdefault((request.task_name, request.doc_id), []).append(reply)
        return [reply.text for reply in replies]

    def _warn_of_settings(self, sampled: bool) -> None:
        """Warn once about settings in the checkpoint's generation config that change replies, as in lm-eval."""
        found = {
            name: value
            for name, value in own_settings(self.model.generation_config).items()
            if sampled or name not in SAMPLING
        }
        if found.keys() - self.warned:
            logger.warning(
                "generation_config.json sets %s: these settings change generated replies, here as in lm-eval",
                ", ".join(f"{name}={value}" for name, value in found.items()),
            )
        self.warned |= found.keys()

    def reply(self, prompts: list[list[int]], options: dict) -> list[Reply]:
        """Generate replies to one batch of prompts (token ids) with lm-eval's normalised generation settings."""
        options = dict(options)
        stops, limit = [stop for stop in options.pop("until") if stop], options.pop("max_gen_toks")
        stops += self.stop_texts
        if not options["do_sample"]:
            options.pop("temperature", None)
        options["logits_processor"] = LogitsProcessorList([RefuseNan(), *options.get("logits_processor", [])])
        inputs = self._padded(prompts)
        width = inputs["input_ids"].shape[1]
        with contiguous_states(self.model), settings_named(self.model.generation_config, options):
            output = self.model.generate(
                **inputs,
                max_new_tokens=limit,
                eos_token_id=self.stop_ids or None,
                pad_token_id=self.padding,
                stopping_criteria=[StopAtText(self.tokenizer, stops, width)] if stops else None,
                tokenizer=self.tokenizer,  # for stop_strings of a generation config
                **ONE_REPLY | options,
            )
        return [self._read(row, stops, limit) for row in output[:, width:].tolist()]

    def _padded(self, prompts: list[list[int]]) -> dict[str, torch.Tensor]:
        """(rows, longest prompt) token ids with padding on the left, and the mask that hides it."""
        width = max(map(len, prompts))
        ids = [[self.padding] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        tensors = {"input_ids": ids, "attention_mask": mask}
        return {name: torch.tensor(rows, device=self.device) for name, rows in tensors.items()}

    def _begin(self) -> int:
        """The token before an empty prompt or context.

        Raises:
            UserError: the tokenizer has neither a BOS nor an EOS token.
        """
        if self.prefix_token_id is None:
            raise UserError(
                "An item without a prompt needs a token to begin with.",
                got="a tokenizer with neither a BOS nor an EOS token",
                expected="bos_token or eos_token in tokenizer_config.json",
                fix="set one of them, or leave out suites whose items have no prompt",
            )
        return self.prefix_token_id

    def _read(self, tokens: list[int], stops: list[str], limit: int) -> Reply:
        """Cut generated token ids at the first stop token or stop string; padding follows."""
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
        """Like lm-eval's method, but skips or refuses items that do not fit instead of cutting them from the left."""
        contexts = [context.rstrip() for context, _ in (request.args for request in requests)]
        self.encoded = self._encode([*contexts, *("".join(request.args) for request in requests)])
        try:
            pairs = [self._encode_pair(*request.args) for request in requests]
        finally:
            self.encoded = {}
        fits = self._fitting(requests, [(len(context) + len(continuation) - 1, 0) for context, continuation in pairs])
        scores = dict(zip(fits, self._loglikelihood_tokens([(None, *pairs[i]) for i in fits]), strict=True))
        return [scores.get(i, (0.0, False)) for i in range(len(requests))]

    def _encode(self, texts: list[str]) -> dict[str, list[int]]:
        """Encode texts like `tok_encode`, in one batch."""
        special = {} if self.add_bos_token is None else {"add_special_tokens": self.add_bos_token}
        begun = None if self.prefix_token_id is None else self.tokenizer.decode(self.prefix_token_id)
        groups: dict[bool, list[str]] = {False: [], True: []}
        for text in dict.fromkeys(texts):
            groups[has_bos_prefix(text, begun)].append(text)
        encoded: dict[str, list[int]] = {}
        for has_begun, group in groups.items():
            options = {"add_special_tokens": False} if has_begun else special
            ids = self.tokenizer(group, return_attention_mask=False, **options)["input_ids"] if group else []
            encoded |= dict(zip(group, ids, strict=True))
        return encoded

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: object) -> list[int]:
        """Like lm-eval's method, but looks up texts that `_encode` has encoded."""
        if add_special_tokens is None and string in self.encoded:
            return self.encoded[string]
        return super().tok_encode(string, add_special_tokens, **options)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of a context and its continuation; an empty context becomes the BOS token, as in lm-eval."""
        if context:
            return super()._encode_pair(context, continuation)
        ids = self.tok_encode(continuation, add_special_tokens=False)
        begin = self._begin()
        return ([begin], ids) if ids[0] != begin else (ids[:1], ids[1:])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Like lm-eval's method, with texts of similar length per batch; long texts are scored in windows, not cut."""
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].args[0]))
        self._begin()
        # lm-eval conditions the first token on the BOS token; one that the tokenizer adds would be scored as text.
        before, self.add_bos_token = self.add_bos_token, False
        try:
            sums = super().loglikelihood_rolling([requests[i] for i in order], disable_tqdm=True)
        finally:
            self.add_bos_token = before
        return [total for _, total in sorted(zip(order, sums, strict=True))]

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[object, list[int], list[int]]],
        disable_tqdm: bool = True,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, whether it is the greedy continuation) of each continuation.

        Args:
            requests: (anything, context ids, continuation ids). Requests with the same input, all tokens but the last,
                share a row: the choices A, B, C and D of a question cost one row.
            disable_tqdm, override_bs: part of lm-eval's interface, not used.
        """
        rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, (_, context, continuation) in enumerate(requests):
            rows[tuple(context + continuation)[:-1]].append(i)
        inputs = sorted(rows, key=lambda ids: (-len(ids), ids))
        found: dict[int, tuple[float, bool]] = {}
        with passing_line("items", len(inputs)) as line:
            for start in range(0, len(inputs), self.batch_size):
                batch = inputs[start : start + self.batch_size]
                asked = [(row, i) for row, ids in enumerate(batch) for i in rows[ids]]
                scores = self._score_batch(batch, [(row, requests[i][2]) for row, i in asked])
                found |= zip((i for _, i in asked), scores, strict=True)
                line.count_to(start + len(batch))
        return [found[i] for i in range(len(requests))]

    def _score_batch(
        self, inputs: list[tuple[int, ...]], continuations: list[tuple[int, list[int]]]
    ) -> list[tuple[float, bool]]:
        """Score continuations, given as (row, token ids); the last token is not part of the row's input."""
        lengths = [len(ids) for ids in inputs]
        first = min(lengths[row] - len(ids) for row, ids in continuations)
        logits = self._logits(inputs, first)
        # One line for each scored token: rows and positions of `logits`, and the token.
        rows = [row for row, ids in continuations for _ in ids]
        places = [lengths[row] - len(ids) + k - first for row, ids in continuations for k in range(len(ids))]
        tokens = torch.tensor([token for _, ids in continuations for token in ids], device=logits.device)
        distinct: dict[tuple[int, int], int] = {}
        lines = [distinct.setdefault(place, len(distinct)) for place in zip(rows, places, strict=True)]
        picked = torch.tensor(list(distinct), device=logits.device)
        log_probs = torch.log_softmax(logits[picked[:, 0], picked[:, 1]], dim=-1, dtype=self.softmax_dtype)
        line = torch.tensor(lines, device=logits.device)
        values = log_probs[line, tokens]
        require_numbers(values)
        greedy = log_probs.argmax(dim=-1)[line] == tokens
        sizes = [len(ids) for _, ids in continuations]
        parts = zip(values.split(sizes), greedy.split(sizes), strict=True)
        return [(float(part.sum()), bool(hits.all())) for part, hits in parts]

    def _logits(self, inputs: list[tuple[int, ...]], first: int) -> torch.Tensor:
        """(rows, positions from `first` to the longest row's end, vocabulary) logits.

        A model with `logits_to_keep` computes no other positions. Rows are padded on the right and need no mask,
        because causal attention does not see later positions.
        """
        width = max(map(len, inputs))
        padded = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in inputs], device=self.device)
        options = {"use_cache": False} if "use_cache" in self.accepted else {}
        if "logits_to_keep" in self.accepted:
            return self.model(padded, logits_to_keep=torch.arange(first, width, device=self.device), **options).logits
        return self.model(padded, **options).logits[:, first:]

    def _fitting(self, requests: list[Instance], sizes: list[tuple[int, int]]) -> list[int]:
        """Positions of the requests of items that fit into the context; the other items are recorded in `skipped`.

        Args:
            sizes: tokens of each request's prompt, and of the reply that it needs room for.

        Raises:
            UserError: there are others, and they may not be skipped.
        """
        items = [(request.task_name, request.doc_id) for request in requests]
        long = [i for i, (prompt, reply) in enumerate(sizes) if prompt + reply > self.context]
        skipped = {items[i] for i in long}
        if skipped and self.too_long == "refuse":
            task, _ = items[long[0]]
            counts = [len({item for item in some if item[0] == task}) for some in (skipped, items)]
            prompt, reply = max((sizes[i] for i in long if items[i][0] == task), key=sum)
            raise UserError(
                f"{counts[0]} of {counts[1]} items of task {task!r} do not fit into the model's context.",
                got=f"up to {prompt} prompt tokens + {reply} for the reply",
                expected=f"at most {self.context} tokens",
                fix=f"{to_fit(task in self.with_examples, reply > 0)}, or leave such items out (--too_long skip)",
            )
        self.skipped |= skipped
        return [i for i, item in enumerate(items) if item not in skipped]

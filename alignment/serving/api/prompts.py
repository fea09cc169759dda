"""Prompts as token ids, as `align chat` and the evaluations write them."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING

from alignment.errors import UserError
from alignment.models.generation import end_token_ids
from alignment.serving.api.api_errors import ApiError
from alignment.serving.batching.served_models import Served
from alignment.tokenization.chat_format import Messages, TemplateRefusal, apply_template, end_of_turn_id

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class PromptReader:
    """Makes prompts of one model.

    Args:
        served: the model with its tokenizer.
        context: tokens of a prompt with its reply, at most.
        vocabulary: number of token ids.

    Attributes:
        backend: a copy of the tokenizer to decode with: a tokenizer that one thread encodes with refuses others.
        ends, turn_ends: ids of the tokens that end a reply to a plain prompt, and a turn of a conversation.
    """

    def __init__(self, served: Served, context: int, vocabulary: int):
        self.name, self.tokenizer, self.context, self.vocabulary = served.name, served.tokenizer, context, vocabulary
        if not self.tokenizer.is_fast:
            raise UserError(
                f"the tokenizer of {self.name} cannot decode a reply piece by piece",
                got=type(self.tokenizer).__name__,
                expected="a fast tokenizer, with tokenizer.json",
                fix="AutoTokenizer.from_pretrained(CKPT, use_fast=True).save_pretrained(CKPT)",
            )
        self.backend: Tokenizer = copy.deepcopy(self.tokenizer.backend_tokenizer)
        self.ends = end_token_ids(served.model, self.tokenizer)
        turn_end = end_of_turn_id(self.tokenizer) if self.tokenizer.chat_template else None
        self.turn_ends = sorted({*self.ends, *([] if turn_end is None else [turn_end])})
        self._lock = threading.Lock()

    def conversation(self, messages: Messages) -> list[int]:
        """Return the ids of a conversation, up to where the reply begins.

        Raises:
            ApiError: there is no chat template, or it refuses the conversation.
        """
        if not self.tokenizer.chat_template:
            raise ApiError(400, f"{self.name} has no chat template: use /v1/completions", param="model")
        try:
            with self._lock:
                encoded = apply_template(self.tokenizer, messages, add_generation_prompt=True, return_dict=True)
        except TemplateRefusal as error:
            raise ApiError(400, f"the chat template of {self.name}: {error.got}", param="messages") from error
        return list(encoded["input_ids"])

    def plain(self, prompt: str | list[int]) -> list[int]:
        """Return the ids of a prompt without a template.

        Raises:
            ApiError: an id is not in the vocabulary, or an empty prompt has no token to begin with.
        """
        if isinstance(prompt, str):
            with self._lock:
                ids = list(self.tokenizer(prompt)["input_ids"])
            begin = self.tokenizer.bos_token_id
            begin = self.tokenizer.eos_token_id if begin is None else begin
            if not ids and begin is None:
                raise ApiError(400, f"the prompt is empty, and {self.name} has no token to begin with", param="prompt")
            return ids or [begin]
        if max(prompt) >= self.vocabulary:
            largest = f"token id {max(prompt)}, the vocabulary of {self.name} ends at {self.vocabulary - 1}"
            raise ApiError(400, f"the prompt has {largest}", param="prompt")
        return prompt

    def reply(self, text: str) -> tuple[list[int], list[int]]:
        """Return the ids of a given reply, and the position in the text where each token ends."""
        with self._lock:
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoded["input_ids"]), [end for _, end in encoded["offset_mapping"]]

    def room(self, prompts: list[list[int]], wanted: int | None) -> int:
        """Return the number of tokens that a reply may have: the wanted number, or what the context leaves.

        Raises:
            ApiError: the context is too short for prompt and reply.
        """
        longest = max(map(len, prompts))
        left = self.context - longest
        limits = f"the context of {self.name} has {self.context} tokens"
        if left < 1:
            message = f"{limits}, the prompt {longest}: shorten it by {1 - left} at least"
            raise ApiError(400, message, param="messages", code="context_length_exceeded")
        if wanted is not None and wanted > left:
            message = f"{limits}, the prompt {longest}: max_tokens={wanted} leaves no room, at most {left} do"
            raise ApiError(400, message, param="max_tokens", code="context_length_exceeded")
        return wanted or left

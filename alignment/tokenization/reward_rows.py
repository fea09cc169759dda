"""The token at which a reward model's score is read: one rule for training, PPO, learned rewards, cards and best of n.

TRL's RewardTrainer trains on a conversation as the chat template writes it (for plain text: with the end-of-sequence
token appended), and transformers reads the score at the last token that is not the padding token. That is often not the
token that ends a reply: ChatML and Gemma write a newline after it, and in a model that pads with its end-of-sequence
token it is the token before. A score read at any other token was never trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignment.tokenization.chat_format import Messages, apply_template

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

Prompt = str | Messages  # a prompt or completion, as text or as a conversation
REPLY = "zebra"
TRIED = (REPLY, "Zebra", "1", "...")  # beginnings of replies; not every vocabulary can encode all of them


def reward_rows(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], completions: Sequence[Prompt]
) -> list[list[int]]:
    """Return token ids as TRL's RewardTrainer makes them: conversations by the chat template, text plus EOS."""
    joined = [_joined(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
    if not joined:
        return []
    texts = [row for row in joined if isinstance(row, str)]
    if len(texts) < len(joined):
        return apply_template(tokenizer, joined, return_dict=True)["input_ids"]
    end = tokenizer.eos_token or ""
    return tokenizer([text if text.endswith(end) else text + end for text in texts])["input_ids"]


def _joined(prompt: Prompt, completion: Prompt) -> Prompt:
    """Return a prompt with its completion, both as text or both as messages."""
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt + completion
    if isinstance(prompt, str) or isinstance(completion, str):
        raise TypeError("prompt and completion are not of one kind: one is text, the other a list of messages")
    return prompt + completion


def reply_ending(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int] | None:
    """Return the ids after a reply to this prompt in a row of `reward_rows`; None if the template changes replies."""
    if isinstance(prompt, str):
        return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    reply = [{"role": "assistant", "content": REPLY}]
    text = apply_template(tokenizer, prompt + reply, tokenize=False)
    _, found, after = text.rpartition(REPLY)
    return _ids(tokenizer, after) if found else None


def ending_of_tokens(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], prompt_ids: Sequence[list[int]]
) -> list[int] | None:
    """Return the ids that turn a sampled row (prompt, then completion) into a row of `reward_rows` when appended.

    Args:
        tokenizer: the reward model's.
        prompt_ids: the prompts as the policy encodes them.

    Returns:
        None if the reward model encodes these prompts or the beginnings of replies differently: then completions have
            to be passed to it as text.
    """
    endings: list[list[int]] = []
    for prompt in prompts:
        ending = reply_ending(tokenizer, prompt)
        if ending is None:
            return None
        endings.append(ending)
    if not endings:
        return None
    whole = all(_continues(tokenizer, *row) for row in zip(prompts, prompt_ids, endings, strict=True))
    return endings[0] if whole and all(ending == endings[0] for ending in endings) else None


def _continues(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, ids: list[int], ending: list[int]) -> bool:
    """Return whether rows with this prompt are its ids, a reply and the ending, with only white space between them."""
    if isinstance(prompt, str):  # whether its last word and a reply's first form one word depends on data and policy
        return reward_rows(tokenizer, [prompt], [f" {prompt}"])[0][: len(ids)] == ids
    written = [text for text in TRIED if tokenizer.decode(_ids(tokenizer, text)).strip() == text]
    for text in written or [REPLY]:
        [row] = reward_rows(tokenizer, [prompt], [[{"role": "assistant", "content": text}]])
        reply = tokenizer.decode(row[len(ids) : len(row) - len(ending)])
        if row[: len(ids)] != ids or row[len(row) - len(ending) :] != ending or reply.strip() != text:
            return False
    return True


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def padding_id(config: PreTrainedConfig | None, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token at which scores are never read, as TRL's RewardTrainer sets it in the config of its model.

    Args:
        config: the reward model's; None for an adapter, since its base's config was changed for training.
    """
    ids = (config and config.get_text_config().pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((token for token in ids if token is not None), None)


def score_index(input_ids: Tensor, attention_mask: Tensor, pad_token_id: int | None) -> Tensor:
    """Return the index in each row at which the score is read: input_ids, attention_mask (B, L) -> (B,).

    The rule is transformers' (`GenericForSequenceClassification`): the last token that is not `pad_token_id`, 0 without
    such a token. Tokens that the mask excludes never count.
    """
    import torch

    counts = attention_mask.bool() if pad_token_id is None else attention_mask.bool() & (input_ids != pad_token_id)
    return (torch.arange(input_ids.shape[1], device=input_ids.device) * counts).argmax(1)

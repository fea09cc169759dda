"""Tokenizers: training, chat templates, end-of-turn tokens, and the rows that reward models read."""

from alignment.tokenization.chat_format import chat_eos_ids
from alignment.tokenization.train import SPECIAL_TOKENS, character_tokenizer, train_tokenizer

__all__ = ["SPECIAL_TOKENS", "character_tokenizer", "chat_eos_ids", "train_tokenizer"]

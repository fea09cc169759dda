"""Tokenizers that load with the plain AutoTokenizer: a byte-level BPE that is learned, or one token a character."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib.resources import files
from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import TokenizersBackend

logger = logging.getLogger(__name__)

END_OF_TEXT, PAD, END_OF_TURN = "<|endoftext|>", "<|pad|>", "<|end|>"
UNKNOWN = "<|unknown|>"  # of a character tokenizer alone
# They take the first ids, in this order.
SPECIAL_TOKENS = (END_OF_TEXT, PAD, "<|system|>", "<|user|>", "<|assistant|>", END_OF_TURN)
# Every byte has a token, so that any text can be encoded and nothing is ever unknown.
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, model_max_length: int, *, sample: bool = False
) -> TokenizersBackend:
    """Learn `vocab_size` tokens from `texts`, and add the special tokens and the chat template.

    `<|endoftext|>` begins and ends a document, so that its first token is learned too; the tokenizer puts it before
    plain text by itself, and the chat template writes it, as Llama's do. `<|end|>` ends a turn of a conversation. The
    pad token is neither, so that masking the padding never masks an end that the model has to learn. A `sample` of the
    texts may be too small for the vocabulary.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(
            "The vocabulary is too small for a byte-level tokenizer.",
            got=f"vocab_size {vocab_size}",
            expected=f"at least {SMALLEST_VOCABULARY}: 256 bytes and {len(SPECIAL_TOKENS)} special tokens",
            fix="raise vocab_size",
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learned = tokenizer.get_vocab_size()
    if learned == SMALLEST_VOCABULARY and vocab_size > SMALLEST_VOCABULARY and not sample:
        raise UserError(
            "The texts hold no pair of characters that occurs twice, so no token can be learned.",
            expected="documents to learn the vocabulary from",
            fix="check the tokenizer's data set",
        )
    if learned < vocab_size and not sample:
        logger.warning("The texts hold only %d tokens' worth of repetition; %d were asked for.", learned, vocab_size)
    return _with_special_tokens(tokenizer, model_max_length)


def character_tokenizer(texts: Iterable[str], model_max_length: int) -> TokenizersBackend:
    """A token for each character of `texts`, beside the special tokens; any other character is `<|unknown|>`."""
    from tokenizers import Tokenizer, decoders, models

    tokens = [*SPECIAL_TOKENS, UNKNOWN, *sorted(set().union(*texts))]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    # BPE without merges splits text into characters faster than any pre-tokenizer.
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([*SPECIAL_TOKENS, UNKNOWN])
    return _with_special_tokens(tokenizer, model_max_length, unk_token=UNKNOWN)


def _with_special_tokens(tokenizer: Tokenizer, model_max_length: int, **others: str) -> TokenizersBackend:
    """The tokenizer with its special tokens named, the one before plain text, and the chat template."""
    from tokenizers import processors
    from transformers import TokenizersBackend

    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        pair=f"{END_OF_TEXT} $A {END_OF_TEXT} $B",
        special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))],
    )
    return TokenizersBackend(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in (END_OF_TEXT, PAD)],
        chat_template=files("alignment.tokenization").joinpath("chat_template.jinja").read_text(encoding="utf-8"),
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **others,
    )

"""Training of tokenizers that AutoTokenizer loads: a byte-level BPE, or one token per character."""

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
UNKNOWN = "<|unknown|>"  # only in character tokenizers
# They have the first ids, in this order.
SPECIAL_TOKENS = (END_OF_TEXT, PAD, "<|system|>", "<|user|>", "<|assistant|>", END_OF_TURN)
# Every byte has a token, so that any text can be encoded without unknown tokens.
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, model_max_length: int, *, sample: bool = False
) -> TokenizersBackend:
    """Train a byte-level BPE of `vocab_size` tokens on `texts`, with the special tokens and the chat template.

    `<|endoftext|>` begins and ends a document, so that its first token is learned too. The tokenizer writes it before
    plain text, the chat template before a conversation, as in Llama. `<|end|>` ends a turn of a conversation. The pad
    token differs from both, so that masking the padding never masks an end that the model has to learn.

    Args:
        sample: the texts are a sample, which may be too small for the vocabulary.
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
            "No pair of characters occurs twice in the texts, so that no token can be learned.",
            expected="documents to learn the vocabulary from",
            fix="check the tokenizer's data set",
        )
    if learned < vocab_size and not sample:
        logger.warning("The texts are enough for %d tokens only; the recipe asks for %d.", learned, vocab_size)
    return _with_special_tokens(tokenizer, model_max_length)


def character_tokenizer(texts: Iterable[str], model_max_length: int) -> TokenizersBackend:
    """Make a tokenizer with a token for each character of `texts`; all other characters are `<|unknown|>`."""
    from tokenizers import Tokenizer, decoders, models

    tokens = [*SPECIAL_TOKENS, UNKNOWN, *sorted(set().union(*texts))]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    # BPE without merges splits text into characters faster than any pre-tokenizer.
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([*SPECIAL_TOKENS, UNKNOWN])
    return _with_special_tokens(tokenizer, model_max_length, unk_token=UNKNOWN)


def _with_special_tokens(tokenizer: Tokenizer, model_max_length: int, **others: str) -> TokenizersBackend:
    """Wrap a tokenizer, with its special tokens, the token before plain text, and the chat template."""
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

"""A stand-in for EleutherAI/pythia-1b-deduped: its architecture and kind of tokenizer, 16-bit weights, no template."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, TokenizersBackend

POSTS = [f"SUBREDDIT: r/advice\n\nTITLE: Question {i}\n\nPOST: I lost {i} keys today.\n\nTL;DR:" for i in range(24)]
SUMMARIES = [f" Lost {i} keys." for i in range(24)]


def tokenizer() -> TokenizersBackend:
    """Byte-level, with <|padding|> in the vocabulary but no padding token named, as Pythia's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(POSTS + SUMMARIES, trainer)
    end = "<|endoftext|>"
    return TokenizersBackend(tokenizer_object=backend, bos_token=end, eos_token=end, unk_token=end)


def save(folder: Path) -> Path:
    """The model with its tokenizer."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=640,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPTNeoXForCausalLM(config).half().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_data(folder: Path) -> tuple[Path, Path]:
    """Files with the columns of trl-lib/tldr and of trl-lib/tldr-preference, a train and a validation split each."""
    pairs = zip(POSTS, SUMMARIES, strict=True)
    rows = [{"prompt": post, "completion": summary} for post, summary in pairs]
    preferences = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": " No idea."} for row in rows]
    for name, content in {"tldr": rows, "preference": preferences}.items():
        (folder / name).mkdir(parents=True)
        for split, part in {"train": content[:18], "validation": content[18:]}.items():
            text = "".join(json.dumps(row) + "\n" for row in part)
            (folder / name / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder / "tldr", folder / "preference"

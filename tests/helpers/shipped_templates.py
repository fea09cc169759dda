"""The chat templates that the project ships, and a classifier for any tokenizer that is given one."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

import alignment.tokenization

TURNS = Path(alignment.tokenization.__file__).parent
SHIPPED = {path.stem: path.read_text() for path in [TURNS / "chat_template.jinja", *(TURNS / "turns").glob("*.jinja")]}


def classifier(tokenizer, seed: int = 0) -> LlamaForSequenceClassification:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    pad = tokenizer.pad_token_id
    shape = {"vocab_size": len(tokenizer), "max_position_embeddings": 128, **sizes}
    config = LlamaConfig(num_labels=1, pad_token_id=pad, **shape)
    return LlamaForSequenceClassification(config).eval()

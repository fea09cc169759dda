"""The context length that a config names."""

import pytest
from transformers import BloomConfig, Gemma3Config, GPT2Config, LlamaConfig

from alignment.models.context_length import context_length


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (LlamaConfig(max_position_embeddings=96), 96),
        (GPT2Config(n_positions=80), 80),
        (Gemma3Config(text_config={"max_position_embeddings": 64}), 64),
        (BloomConfig(), None),
    ],
    ids=["llama", "gpt2", "text part", "no limit"],
)
def test_context_length(config, length):
    assert context_length(config) == length


def test_other_values_are_no_length():
    config = LlamaConfig()
    config.max_position_embeddings = -1
    assert context_length(config) is None

"""Presets: published models, as the fields in which each differs from `GPTConfig`'s defaults.

Sizes are the published ones. GPT-3's paper does not give the width of its banded layers; 256 is our choice. Presets
with `modern` or `moe` in their names have the shape of a known family, but are not copies of a released model.
"""

from typing import Any

from ...errors import unknown

# Radford et al. 2018: post-norm, learned positions.
GPT1 = {
    "vocab_size": 40478,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "norm_type": "layernorm",
    "norm_placement": "post",
    "position_embedding_type": "learned",
    "mlp_type": "mlp",
    "hidden_act": "gelu_new",
    "attention_bias": True,
    "mlp_bias": True,
    "attention_dropout": 0.1,
    "hidden_dropout": 0.1,
    "embedding_dropout": 0.1,
    "tie_word_embeddings": True,
}
# Radford et al. 2019: pre-norm, byte-level vocabulary.
GPT2 = GPT1 | {
    "vocab_size": 50257,
    "max_position_embeddings": 1024,
    "norm_placement": "pre",
    "bos_token_id": 50256,
    "eos_token_id": 50256,
}


def _gpt2(hidden_size: int, layers: int, heads: int) -> dict:
    return GPT2 | {"hidden_size": hidden_size, "num_hidden_layers": layers, "num_attention_heads": heads}


def _gpt3(hidden_size: int, layers: int, heads: int) -> dict:
    """Return a shape of GPT-3 (Brown et al. 2020, table 2.1).

    It is GPT-2's with 2,048 positions and every other layer banded (Child et al. 2019).
    """
    return _gpt2(hidden_size, layers, heads) | {
        "max_position_embeddings": 2048,
        "layer_types": ["full_attention", "sliding_attention"] * (layers // 2),
        "sliding_window": 256,
    }


def _modern(hidden_size: int, layers: int, heads: int, kv_heads: int, intermediate_size: int, **others: Any) -> dict:
    """Return a shape of Llama (Touvron et al. 2023): sizes for the defaults of `GPTConfig`."""
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate_size,
        **others,
    }


PRESETS = {
    "gpt1": GPT1,
    "gpt2": GPT2,
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "gpt3-125m": _gpt3(768, 12, 12),
    "gpt3-350m": _gpt3(1024, 24, 16),
    "gpt3-760m": _gpt3(1536, 24, 16),
    # The table says 24 heads of 128, which do not fit a width of 2,048; 16 heads do, and give 1.3B parameters.
    "gpt3-1.3b": _gpt3(2048, 24, 16),
    "gpt3-2.7b": _gpt3(2560, 32, 32),
    "gpt3-6.7b": _gpt3(4096, 32, 32),
    # The table says a width of 5,140, but 40 heads of 128 make 5,120.
    "gpt3-13b": _gpt3(5120, 40, 40),
    "gpt3-175b": _gpt3(12288, 96, 96),
    "modern-tiny": _modern(128, 4, 4, 2, 384, vocab_size=4096, max_position_embeddings=512, tie_word_embeddings=True),
    "modern-160m": _modern(768, 12, 12, 12, 3072),
    "modern-1b": _modern(  # as Llama 3.2 1B
        2048,
        16,
        32,
        8,
        8192,
        vocab_size=128256,
        max_position_embeddings=131072,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    "modern-7b": _modern(4096, 32, 32, 32, 11008, max_position_embeddings=4096),  # as Llama 2 7B
    "moe-tiny": _modern(
        128,
        4,
        4,
        2,
        384,
        vocab_size=4096,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
    ),
    "moe-8x7b-like": _modern(  # as Mixtral 8x7B (Jiang et al. 2024)
        4096,
        32,
        32,
        8,
        14336,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        num_experts=8,
        num_experts_per_tok=2,
    ),
    "moe-deepseek-like": _modern(  # as DeepSeekMoE 16B (Dai et al. 2024)
        2048,
        28,
        16,
        16,
        10944,
        vocab_size=102400,
        max_position_embeddings=4096,
        norm_eps=1e-6,
        num_experts=64,
        num_experts_per_tok=6,
        moe_intermediate_size=1408,
        num_shared_experts=2,
        mlp_layer_types=["dense"] + ["sparse"] * 27,
        norm_topk_prob=False,
    ),
}


def preset_fields(name: str) -> dict:
    """Return the fields of a preset.

    Raises:
        UserError: there is no such preset.
    """
    if name not in PRESETS:
        raise unknown("preset", name, tuple(PRESETS))
    return PRESETS[name]

"""What GPTConfig accepts, derives, refuses and saves."""

import pytest
from transformers import AutoConfig

import alignment  # noqa: F401 - registers the architecture
from alignment.errors import UserError
from alignment.models.gpt import GPTConfig


def test_defaults_are_the_modern_shape():
    config = GPTConfig()
    assert (config.norm_type, config.position_embedding_type, config.mlp_type) == ("rmsnorm", "rope", "gated")
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    assert (config.head_dim, config.num_key_value_heads, config.intermediate_size) == (64, 12, 2048)
    assert not config.attention_bias and not config.mlp_bias
    assert config.hidden_dropout == config.attention_dropout == config.embedding_dropout == 0


@pytest.mark.parametrize(
    "hidden_size, mlp_type, expected",
    [(96, "gated", 256), (128, "gated", 384), (4096, "gated", 10944), (96, "mlp", 384)],
)
def test_inner_width_follows_hidden_size(hidden_size, mlp_type, expected):
    config = GPTConfig(hidden_size=hidden_size, num_attention_heads=4, mlp_type=mlp_type)
    assert config.intermediate_size == expected


def test_gpt2_names_are_aliases():
    config = GPTConfig(n_embd=96, n_layer=3, n_head=6, n_positions=50, layer_norm_epsilon=1e-3)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (96, 3, 6)
    assert (config.max_position_embeddings, config.norm_eps, config.rms_norm_eps) == (50, 1e-3, 1e-3)
    assert (config.head_dim, config.num_key_value_heads, config.intermediate_size) == (16, 6, 256)
    assert config.n_embd == 96
    saved = config.to_dict()
    assert saved["hidden_size"] == 96
    assert "n_embd" not in saved


def test_old_rope_names_are_folded_in():
    config = GPTConfig(rope_theta=500.0, rope_scaling={"type": "linear", "factor": 2.0})
    assert config.rope_parameters["rope_type"] == "linear"
    assert (config.rope_parameters["rope_theta"], config.rope_parameters["factor"]) == (500.0, 2.0)


@pytest.mark.parametrize(
    "config",
    [
        GPTConfig(num_key_value_heads=4, rope_parameters={"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}),
        GPTConfig(norm_type="layernorm", position_embedding_type="learned", mlp_type="mlp", hidden_act="gelu_new"),
    ],
    ids=["rope", "learned"],
)
def test_saved_config_comes_back(config, tmp_path):
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is GPTConfig
    different = {key for key, value in loaded.to_dict().items() if value != config.to_dict().get(key)}
    assert different <= {"_name_or_path"}


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"norm_type": "batchnorm"}, "norm_type is not known"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type is not known"),
        ({"mlp_type": "swiglu"}, "mlp_type is not known"),
        ({"hidden_act": "swish2"}, "hidden_act is not known"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is too small"),
        ({"vocab_size": 0}, "vocab_size is too small"),
        ({"hidden_dropout": 1.0}, "hidden_dropout is out of range"),
        ({"hidden_size": 100, "num_attention_heads": 12}, "the heads do not fill the hidden size"),
        ({"num_key_value_heads": 5}, "do not divide among the key-value heads"),
        ({"head_dim": 15}, "odd number"),
        ({"rope_parameters": {"rope_type": "yarm", "rope_theta": 1e4}}, "rope_type is not known"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "this model has no partial RoPE"),
        ({"position_embedding_type": "learned", "rope_theta": 1e4}, "but positions are learned"),
        ({"norm_placement": "between"}, "norm_placement is not known"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types does not fit the number of layers"),
        ({"layer_types": ["chunked_attention"] * 12}, "layer_types has an unknown type"),
        ({"layer_types": ["sliding_attention"] * 12}, "sliding layers need a window"),
        ({"mlp_layer_types": ["sparse"] * 12}, "sparse layers need experts"),
        ({"num_experts": 4, "mlp_layer_types": ["dense"] * 12}, "no layer has experts"),
        ({"num_experts": 4, "num_experts_per_tok": 5}, "num_experts_per_tok=5, num_experts=4"),
        ({"num_experts": 4, "mlp_type": "mlp"}, "experts are gated"),
        ({"num_experts": 4, "router_aux_loss_coef": 0}, "z-loss needs the load-balancing loss"),
        ({"qkv_conv_size": 1}, "qkv_conv_size is out of range"),
        ({"qkv_conv_size": 4, "sliding_window": 8}, "layer_types do not fit qkv_conv_size"),
        ({"layer_types": ["hybrid"] * 12}, "layer_types do not fit qkv_conv_size"),
        ({"attn_logit_softcapping": 0.0}, "attn_logit_softcapping is out of range"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_built_is_refused(changes, problem):
    with pytest.raises(UserError, match=problem) as caught:
        GPTConfig(**changes)
    assert caught.value.got is not None
    assert caught.value.expected


def test_mistakes_are_reported_together():
    with pytest.raises(UserError) as caught:
        GPTConfig(norm_type="none", mlp_type="none", num_attention_heads=0)
    for problem in ("norm_type is not known", "mlp_type is not known", "num_attention_heads is too small"):
        assert problem in str(caught.value)


def test_explicit_head_dim_need_not_fill_the_hidden_size():
    assert GPTConfig(hidden_size=100, num_attention_heads=12, head_dim=16).head_dim == 16

"""Cost of a GPT, computed from its config alone: parameters, FLOPs, cache and training memory."""

from dataclasses import dataclass

from .configuration_gpt import GPTConfig

# Bytes per parameter of AdamW in float32: weight, gradient and two moments. bf16 autocast keeps weights in float32.
ADAMW_BYTES = 16
SLIDING = "sliding_attention"


@dataclass(frozen=True)
class Sizes:
    """Costs of a model.

    Attributes:
        parameters: number of parameters; tied ones count once.
        active_parameters: parameters that process a token; fewer than `parameters` if there are experts.
        forward_flops_per_token: mean over the tokens of a sequence of `context` tokens; a multiply-add is two FLOPs. A
            training step takes three times as many (Kaplan et al. 2020).
        kv_cache_bytes_per_token: keys and values of a token in full-attention layers, at 2 bytes per number.
        kv_cache_bytes: keys and values of a sequence of `context` tokens; sliding layers keep at most their window, and
            convolutions add their last positions.
        training_bytes: weights, gradients and AdamW's moments in float32, without activations.
        context: sequence length that these figures are for.
    """

    parameters: int
    active_parameters: int
    forward_flops_per_token: int
    kv_cache_bytes_per_token: int
    kv_cache_bytes: int
    training_bytes: int
    context: int


def sizes(config: GPTConfig, context: int | None = None) -> Sizes:
    """Return the costs of a config at a context length (default: max_position_embeddings)."""
    context = context or config.max_position_embeddings
    all_layers, active_layers = _layer_weights(config, active=False), _layer_weights(config, active=True)
    embeddings = config.vocab_size * config.hidden_size
    tables = embeddings * (1 if config.tie_word_embeddings else 2)
    if config.position_embedding_type == "learned":
        tables += config.max_position_embeddings * config.hidden_size
    other = tables + _vectors(config)
    attention = 4 * config.num_attention_heads * config.head_dim * sum(_mean_positions(config, context))
    kv_bytes = 2 * 2 * config.num_key_value_heads * config.head_dim
    kept = sum(_window(config, kind, context) for kind in config.layer_types)
    full = sum(kind != SLIDING for kind in config.layer_types)
    states = 2 * max(config.qkv_conv_size - 1, 0) * _qkv_width(config) * config.num_hidden_layers
    return Sizes(
        parameters=all_layers + other,
        active_parameters=active_layers + other,
        forward_flops_per_token=round(2 * (active_layers + embeddings) + attention),
        kv_cache_bytes_per_token=kv_bytes * full,
        kv_cache_bytes=kv_bytes * kept + states,
        training_bytes=ADAMW_BYTES * (all_layers + other),
        context=context,
    )


def _layer_weights(config: GPTConfig, active: bool) -> int:
    """Count the weights of all layers' matrices; if `active`, only the routed experts that a token is sent to."""
    width, query = config.hidden_size, config.num_attention_heads * config.head_dim
    attention = 2 * width * query + 2 * width * config.num_key_value_heads * config.head_dim
    matrices = 3 if config.mlp_type == "gated" else 2
    dense = matrices * width * config.intermediate_size
    experts = config.num_experts_per_tok if active else config.num_experts
    expert = 3 * width * config.moe_intermediate_size
    sparse = width * config.num_experts + (experts + config.num_shared_experts) * expert
    return sum(attention + (sparse if kind == "sparse" else dense) for kind in config.mlp_layer_types)


def _vectors(config: GPTConfig) -> int:
    """Count the weights of norms, biases, sinks and convolutions."""
    width, query = config.hidden_size, config.num_attention_heads * config.head_dim
    per_norm = 2 if config.norm_type == "layernorm" else 1
    layer = 2 * per_norm * width
    if config.qk_norm:
        layer += 2 * per_norm * config.head_dim
    if config.attention_sinks:
        layer += config.num_attention_heads
    layer += config.qkv_conv_size * _qkv_width(config)
    if config.attention_bias:
        layer += query + 2 * config.num_key_value_heads * config.head_dim + width
    if config.mlp_bias:
        layer += config.intermediate_size * (2 if config.mlp_type == "gated" else 1) + width
    last = per_norm * width if config.norm_placement == "pre" else 0
    return config.num_hidden_layers * layer + last


def _qkv_width(config: GPTConfig) -> int:
    """Return the number of features of the queries, keys and values of a token."""
    return (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim


def _mean_positions(config: GPTConfig, context: int) -> list[float]:
    """Return for each layer the number of positions that a token attends to, averaged over a sequence."""
    windows = [_window(config, kind, context) for kind in config.layer_types]
    return [(window * (window + 1) / 2 + (context - window) * window) / context for window in windows]


def _window(config: GPTConfig, kind: str, context: int) -> int:
    """Return the number of positions that a layer of a kind attends to at most."""
    return min(context, config.sliding_window or context) if kind == SLIDING else context

"""A decoder-only transformer whose configuration spans GPT-2 and its modern descendants.

| option (field)                  | meaning and source                                                            |
|---------------------------------|-------------------------------------------------------------------------------|
| norm_type                       | LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019)               |
| norm_placement                  | after each sum (Vaswani et al. 2017, GPT-1) or before each block (GPT-2)      |
| position_embedding_type         | learned (GPT-1) or rotary (Su et al. 2021)                                    |
| rope_parameters                 | linear (Chen et al. 2023), dynamic NTK, YaRN (Peng et al. 2023), Llama 3      |
| num_key_value_heads             | grouped (Ainslie et al. 2023) or multi-query attention (Shazeer 2019)         |
| qk_norm                         | norm of queries and keys (Henry et al. 2020; Qwen3)                           |
| qkv_conv_size                   | convolution over queries, keys, values (So et al. 2021, Primer)               |
| layer_types, sliding_window     | local attention in some layers (Child et al. 2019, GPT-3; Mistral)            |
| attention_sinks                 | a learned logit per head that goes to no token (Xiao et al. 2024; gpt-oss)    |
| attn_, final_logit_softcapping  | cap * tanh(x / cap) of scores and logits (Gemma 2)                            |
| mlp_type, hidden_act            | plain or gated (Shazeer 2020): GELU, SwiGLU, GeGLU, ReLU^2 (So et al. 2021)   |
| num_experts, ..._per_tok        | top-k mixture of experts (Shazeer et al. 2017; Mixtral)                       |
| num_shared_experts              | experts for every token (Dai et al. 2024, DeepSeekMoE)                        |
| router_aux_loss_coef, ..._z_... | load balance (Fedus et al. 2021), router z-loss (Zoph et al. 2022)            |
| tie_word_embeddings             | output layer = embeddings (Press and Wolf 2017)                               |

Also:
- Without an attention mask, position ids that restart keep the documents of a packed row apart.
- Learned positions count from the first real token if padding is on the left.
- All dropout is in `nn.Dropout` modules, where trainers that turn dropout off (DPO, PPO) look for it.
- Parameters are named as in Llama, Qwen3 and Mixtral.
- The initial weights of residual projections shrink with depth, as in GPT-2.
- Attention runs through transformers' interface (eager, sdpa, flash, flex, paged), experts through its
  experts interface (eager, grouped_mm); a backend that cannot compute what the config asks for is refused.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.integrations import use_experts_implementation
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
    GradientCheckpointingLayer,
)
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple, is_tracing
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ...errors import UserError
from ..router import weighted_router_loss
from .configuration_gpt import HYBRID, GPTConfig

SERVERS = ("vllm", "sglang")  # what they call the attention of their own
MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}


class GPTRMSNorm(nn.RMSNorm):
    """torch's RMSNorm (Zhang and Sennrich 2019), with its weight cast to the type of the input.

    Under autocast, queries and keys are 16-bit tensors, and torch's kernel is fused only if the weight is too.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) -> the same shape."""
        return nn.functional.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


NORMS = {"layernorm": nn.LayerNorm, "rmsnorm": GPTRMSNorm}


def rope_parameters(config: GPTConfig) -> dict[str, Any]:
    """Return the RoPE parameters of a config with rotary positions, which always has them."""
    if config.rope_parameters is None:
        raise ValueError("the positions of this config are learned, not rotary")
    return config.rope_parameters


class GPTRotaryEmbedding(nn.Module):
    """Cosines and sines of rotary positions (Su et al. 2021), with transformers' scalings for longer contexts."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = rope_parameters(config)["rope_type"]
        rope_init_fn = self.compute_default_rope_parameters
        if self.rope_type != "default":
            rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]
        inv_freq, self.attention_scaling = rope_init_fn(config)
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)
        # transformers refills both buffers after loading, but only if it finds this one.
        self.original_inv_freq = nn.Buffer(inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: GPTConfig, **kwargs: object) -> tuple[torch.Tensor, float]:
        """Return the paper's inverse frequencies theta^(-2i/d), (head_dim / 2,), and a factor of 1 for the cosines."""
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
        return rope_parameters(config)["rope_theta"] ** -exponents, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines as transformers' models do, each (batch or 1, seq, head_dim), in the type of x.

        The angles are computed in float32, in which large positions remain distinct.

        Args:
            position_ids: (batch or 1, seq).
        """
        angles = position_ids[..., None].float() * self.inv_freq.to(device=x.device, dtype=torch.float)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return torch.cat((cos, cos), dim=-1).to(x.dtype), torch.cat((sin, sin), dim=-1).to(x.dtype)


def apply_rotary(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate each pair (x[i], x[i + head_dim / 2]) of queries and keys, as Llama's weights expect.

    Rolling by half the features swaps the members of every pair in one pass; negating and concatenating halves takes
    two. The minus sign of a pair's first member goes to the sines, which have no heads and are thus small.

    Args:
        query, key: (batch, heads, seq, head_dim).
        cos, sin: (batch or 1, seq, head_dim), from `GPTRotaryEmbedding`.
    """
    half = cos.shape[-1] // 2
    cos, sin = cos.unsqueeze(1), torch.cat((-sin[..., :half], sin[..., half:]), dim=-1).unsqueeze(1)
    query = torch.addcmul(query * cos, query.roll(half, dims=-1), sin)
    return query, torch.addcmul(key * cos, key.roll(half, dims=-1), sin)


def same_document(
    steps: int, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
) -> torch.Tensor | None:
    """Return whether the positions up to `steps` before are of a position's document: (steps, batch or 1, seq).

    None stands for a single document.

    Args:
        attention_mask: a finished mask, (batch, 1 or heads, seq, seq), of type bool or additive.
        position_ids: (batch or 1, seq), which restart at a new document; looked at if there is no mask.
    """
    if attention_mask is not None:
        seen = attention_mask[:, 0]
        if seen.dtype != torch.bool:
            seen = seen > torch.finfo(seen.dtype).min / 2
        return torch.stack([moved(seen, back, fill=False).diagonal(dim1=1, dim2=2) for back in range(1, steps + 1)])
    if position_ids is None:
        return None
    documents = (position_ids.diff(prepend=position_ids[:, :1] - 1) != 1).cumsum(-1)
    return torch.stack([moved(documents, back, fill=-1) == documents for back in range(1, steps + 1)])


def moved(values: torch.Tensor, steps: int, fill: int | bool) -> torch.Tensor:
    """Move values along the last dimension towards its end; what they leave is filled."""
    return nn.functional.pad(values, (steps, 0), value=fill)[..., : values.shape[-1]]


def eager_attention_forward(
    module: "GPTAttention",
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute attention step by step.

    Args:
        query: (batch, heads, seq, head_dim).
        key, value: (batch, key-value heads, key_seq, head_dim).
        attention_mask: additive.
        s_aux: (heads,), logits of the attention sinks.

    Returns:
        The output (batch, seq, heads, head_dim), and the weights (batch, heads, seq, key_seq), which sum to less than
        1 if there are sinks.
    """
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is not None:
        scores = scores + attention_mask
    if s_aux is not None:
        scores = torch.cat((scores, s_aux.view(1, -1, 1, 1).expand(*scores.shape[:3], 1).to(scores.dtype)), dim=-1)
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32)[..., : key.shape[2]].to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def residual_projection(inner: int, width: int, bias: bool) -> nn.Linear:
    """Make a linear layer that writes to the residual stream, marked as such for `_init_weights`."""
    layer = nn.Linear(inner, width, bias=bias)
    layer.adds_to_residual = True  # type: ignore[assignment]  # torch declares all attributes as tensors or modules
    return layer


class GPTConvolution(nn.Module):
    """Causal convolution of queries, keys and values over the positions, feature by feature (So et al. 2021, "Primer").

    It is a sum of slices, as torch's depthwise convolutions are slow on CPUs. Weights of 0 change nothing, as 1 is
    added to those of the position itself.

    Args:
        widths: features of queries, keys and values.
        size: positions that are summed, with the position itself.
    """

    def __init__(self, widths: tuple[int, int, int], size: int, layer_idx: int):
        super().__init__()
        self.widths, self.layer_idx = widths, layer_idx
        self.weight = nn.Parameter(torch.zeros(size, sum(widths)))

    def forward(
        self,
        projected: tuple[torch.Tensor, ...],
        cache: Cache | None = None,
        real: torch.Tensor | None = None,
        same: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Return queries, keys and values with those of the positions before added, each (batch, seq, features).

        The cache keeps the last positions, with zeros for padding, as that of Lfm2's short convolution does.

        Args:
            real: (batch, seq), 0 for padding.
            same: (size - 1, batch or 1, seq), from `same_document`; None if all positions are of one document.
        """
        x = torch.cat(projected, dim=-1)
        if real is not None:
            x = x * real[..., None].to(x.dtype)
        steps, length = len(self.weight) - 1, x.shape[1]
        if cache is not None:
            x = cache.update_conv_state(x.transpose(1, 2), self.layer_idx, conv_kernel_size=steps).transpose(1, 2)
        x = nn.functional.pad(x, (0, 0, steps + length - x.shape[1], 0))
        weight = self.weight.to(x.dtype)
        total = x[:, steps:] * (1 + weight[0])
        for back in range(1, steps + 1):
            earlier = x[:, steps - back : steps - back + length]
            if same is not None:
                earlier = earlier * same[back - 1, ..., None]
            total = torch.addcmul(total, earlier, weight[back])
        return total.split(self.widths, dim=-1)


class GPTAttention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017), optionally with fewer key-value heads (Ainslie et al. 2023)."""

    def __init__(self, config: GPTConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        self.is_causal = True
        width, kv_width = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=config.attention_bias)
        self.o_proj = residual_projection(width, config.hidden_size, bias=config.attention_bias)
        self.attention_dropout = nn.Dropout(config.attention_dropout)
        norm = NORMS[config.norm_type]
        self.q_norm = norm(self.head_dim, eps=config.norm_eps) if config.qk_norm else None
        self.k_norm = norm(self.head_dim, eps=config.norm_eps) if config.qk_norm else None
        conv_size = config.qkv_conv_size
        self.qkv_conv = GPTConvolution((width, kv_width, kv_width), conv_size, layer_idx) if conv_size else None
        slides = config.layer_types[layer_idx] == "sliding_attention"
        self.sliding_window = config.sliding_window if slides else None
        # Passed on only if in use: some backends refuse the arguments, others look for the attribute.
        self.options: dict[str, float] = {}
        if config.attn_logit_softcapping is not None:
            self.options["softcap"] = config.attn_logit_softcapping
        if config.attention_sinks:
            self.sinks = nn.Parameter(torch.zeros(config.num_attention_heads))

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        real: torch.Tensor | None = None,
        same: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, seq, hidden_size) -> the same shape, and the attention weights if the implementation returns them.

        For models with qkv_conv_size, `real` is 0 for padding, (batch, seq), and `same` is from `same_document`.
        """
        input_shape = hidden_states.shape[:-1]
        by_head = (*input_shape, -1, self.head_dim)
        projected: tuple[torch.Tensor, ...] = (
            self.q_proj(hidden_states),
            self.k_proj(hidden_states),
            self.v_proj(hidden_states),
        )
        if self.qkv_conv is not None:
            states = getattr(
                kwargs.get("cache"), "convolution_states", None
            )  # a paged cache, if it has a place for them
            if states is None:
                projected = self.qkv_conv(projected, past_key_values, real, same)
            else:
                projected = states.convolve(self.qkv_conv, projected)
        query, key, value = (part.view(by_head).transpose(1, 2) for part in projected)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if position_embeddings is not None:
            query, key = apply_rotary(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        # transformers searches the source for exactly this expression to see whether a model can switch its attention.
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        options = self.options | {"s_aux": self.sinks} if self.config.attention_sinks else self.options
        attn_output, attn_weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout.p if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **options,
            **kwargs,
        )
        return self.o_proj(attn_output.reshape(*input_shape, -1)), attn_weights


class GPTMLP(nn.Module):
    """Feed-forward block: down(act(up(x))), or gated, down(act(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, config: GPTConfig, intermediate_size: int):
        super().__init__()
        gated = config.mlp_type == "gated"
        width, inner, bias = config.hidden_size, intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(width, inner, bias=bias) if gated else None
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = residual_projection(inner, width, bias=bias)
        # gelu_new computes the same function in eight steps, some of which autocast runs in 32 bits.
        self.act_fn = ACT2FN["gelu_pytorch_tanh" if config.hidden_act == "gelu_new" else config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, seq, hidden_size) -> the same shape."""
        inner = self.up_proj(hidden_states)
        inner = self.act_fn(inner) if self.gate_proj is None else self.act_fn(self.gate_proj(hidden_states)) * inner
        return self.down_proj(inner)


@use_experts_implementation
class GPTExperts(nn.Module):
    """The routed experts: gated MLPs, with one weight tensor per projection, as grouped kernels need them."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.num_experts = config.num_experts
        inner, width = config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(self.num_experts, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, width, inner))
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Run expert after expert; transformers replaces this method by a grouped kernel if it has one.

        Args:
            hidden_states: (tokens, hidden_size).
            top_k_index, top_k_weights: (tokens, top_k), each token's experts and their weights.

        Returns:
            (tokens, hidden_size).
        """
        output = torch.zeros_like(hidden_states)
        for expert in top_k_index.unique():
            if expert == self.num_experts:  # with expert parallelism, an expert of another process
                continue
            token, place = torch.where(top_k_index == expert)
            gate, up = nn.functional.linear(hidden_states[token], self.gate_up_proj[expert]).chunk(2, dim=-1)
            result = nn.functional.linear(self.act_fn(gate) * up, self.down_proj[expert])
            output.index_add_(0, token, (result * top_k_weights[token, place, None]).to(output.dtype))
        return output


class GPTRouter(nn.Module):
    """Routes each token to its most probable experts, weighted by their probabilities."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.top_k, self.norm_topk_prob = config.num_experts_per_tok, config.norm_topk_prob
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(tokens, hidden_size) -> logits (tokens, experts); weights and indices of chosen experts (tokens, top_k)."""
        logits = nn.functional.linear(hidden_states, self.weight)
        weights, indices = logits.softmax(dim=-1, dtype=torch.float32).topk(self.top_k, dim=-1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return logits, weights.to(logits.dtype), indices


class GPTSparseMLP(nn.Module):
    """A mixture of experts instead of the MLP: routed experts, and shared experts that process every token."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.gate = GPTRouter(config)
        self.experts = GPTExperts(config)
        shared = config.num_shared_experts * config.moe_intermediate_size
        self.shared_experts = GPTMLP(config, shared) if shared else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, seq, hidden_size) -> the same shape."""
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        _, weights, indices = self.gate(tokens)
        output = self.experts(tokens, indices, weights).view_as(hidden_states)
        return output if self.shared_experts is None else output + self.shared_experts(hidden_states)


def router_losses(
    router_logits: tuple[torch.Tensor, ...], config: GPTConfig, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the router losses in units of router_aux_loss_coef: the balance loss, and the z-loss in the same unit.

    The balance loss is computed per layer, as in the paper, and averaged. transformers' Mixtral pools the counts of all
    layers, so that one layer's favourite expert offsets another's (transformers#31464): some experts died.

    Both losses are means over the tokens, without padding; a dense model has no routers, and its loss is 0.

    Args:
        router_logits: (tokens, experts) for each sparse layer.
        attention_mask: (batch, seq), 0 for tokens to leave out; None counts all tokens.
    """
    if not router_logits:
        return torch.zeros(())
    about = (config.num_experts, config.num_experts_per_tok, attention_mask)
    loss = torch.stack([load_balancing_loss_func((logits,), *about) for logits in router_logits]).mean()
    if config.router_z_loss_coef:
        squares = torch.stack([logits.float().logsumexp(dim=-1).square() for logits in router_logits])
        if attention_mask is None:
            z = squares.mean()
        else:
            weights = attention_mask.flatten().to(squares)
            z = (squares.mean(0) * weights).sum() / weights.sum()
        loss = loss + config.router_z_loss_coef / config.router_aux_loss_coef * z
    return loss


def tokens_to_balance(
    attention_mask: torch.Tensor | dict | None, position_ids: torch.Tensor | None, shape: tuple[int, int]
) -> torch.Tensor | None:
    """Return which tokens the router losses count, (batch, seq), or None for all of them.

    A 2-D attention mask marks padding. Packed rows have no mask: in them a token that is alone in its document
    (position ids restart at it and after it) is padding. No token attends to such a token or learns from it.

    Args:
        attention_mask, position_ids: as given to the model; position_ids is None if there is a cache.
        shape: (batch, seq) of the tokens.
    """
    if isinstance(attention_mask, torch.Tensor):  # with a cache, the mask has the earlier tokens too
        return attention_mask[:, -shape[1] :] if attention_mask.ndim == 2 else None
    if attention_mask is not None or position_ids is None:
        return None
    restarts = nn.functional.pad(position_ids[:, 1:] != position_ids[:, :-1] + 1, (1, 1), value=True)
    counted = ~(restarts[:, :-1] & restarts[:, 1:])
    return (counted | ~counted.any()).expand(shape)  # only single tokens: count them rather than divide by 0


class GPTDecoderLayer(GradientCheckpointingLayer):
    """Attention, then an MLP or experts. The norm is on each block's input, or on its sum with the residual stream."""

    def __init__(self, config: GPTConfig, layer_idx: int):
        super().__init__()
        norm = NORMS[config.norm_type]
        self.self_attn = GPTAttention(config, layer_idx)
        sparse = config.mlp_layer_types[layer_idx] == "sparse"
        self.mlp = GPTSparseMLP(config) if sparse else GPTMLP(config, config.intermediate_size)
        self.pre_norm = config.norm_placement == "pre"
        self.input_layernorm = norm(config.hidden_size, eps=config.norm_eps)
        self.post_attention_layernorm = norm(config.hidden_size, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """(batch, seq, hidden_size) -> the same shape."""
        attended, _ = self.self_attn(
            self.input_layernorm(hidden_states) if self.pre_norm else hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        hidden_states = hidden_states + self.dropout(attended)
        if self.pre_norm:
            return hidden_states + self.dropout(self.mlp(self.post_attention_layernorm(hidden_states)))
        hidden_states = self.input_layernorm(hidden_states)
        return self.post_attention_layernorm(hidden_states + self.dropout(self.mlp(hidden_states)))


class GPTPreTrainedModel(PreTrainedModel):
    """Base of all GPT models: supported features and initial weights."""

    config: GPTConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GPTDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": GPTDecoderLayer,
        "attentions": GPTAttention,
        "router_logits": OutputRecorder(GPTRouter, index=0),
    }

    # If these are False, transformers falls back to eager attention, and refuses the backend if it is asked for.
    @property
    def _supports_sdpa(self) -> bool:
        """Whether SDPA computes what the config asks for: it would ignore sinks silently, and has no softcap."""
        return not self.config.attention_sinks and self.config.attn_logit_softcapping is None

    @property
    def _supports_flash_attn(self) -> bool:
        """Whether flash attention computes what the config asks for: it has no sinks."""
        return not self.config.attention_sinks

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw normal weights and zero biases.

        The 2L projections that write to the residual stream are scaled by 1 / sqrt(2L), which keeps its variance from
        growing with depth (Radford et al. 2019).
        """
        super()._init_weights(module)
        # The mark is on the projection itself: for architectures outside its own package, transformers does not call
        # this method on modules that hold no weights directly, such as GPTAttention.
        std = self.config.initializer_range
        residual_std = std / math.sqrt(2 * self.config.num_hidden_layers)
        if getattr(module, "adds_to_residual", False):
            init.normal_(module.weight, std=residual_std)
        elif isinstance(module, GPTExperts):
            init.normal_(module.gate_up_proj, std=std)
            init.normal_(module.down_proj, std=residual_std)
        elif isinstance(module, GPTRouter):
            init.normal_(module.weight, std=std)
        elif isinstance(module, GPTAttention) and self.config.attention_sinks:
            init.zeros_(module.sinks)
        elif isinstance(module, GPTConvolution):
            init.zeros_(module.weight)


def at_positions(hidden_states: torch.Tensor, kept: int | torch.Tensor) -> torch.Tensor:
    """Return the hidden states, (batch, seq, hidden_size), that logits are computed for.

    transformers has the function too, but only since 5.20, and exported checkpoints carry this code to earlier ones.

    Args:
        kept: number of last positions (0: all); or their indices, (positions,) for all rows or (batch, positions); or a
            mask, (batch, seq), for which the result is (kept positions, hidden_size).
    """
    if isinstance(kept, int):
        return hidden_states[:, -kept:]  # -0 is 0
    if kept.ndim == 1:
        return hidden_states[:, kept]
    return hidden_states[kept] if kept.dtype == torch.bool else hidden_states.take_along_dim(kept[..., None], dim=1)


def positions_from_table(table: nn.Embedding, position_ids: torch.Tensor) -> torch.Tensor:
    """Look up learned positions: (batch or 1, seq) -> (batch or 1, seq, hidden_size).

    Raises:
        UserError: a position is beyond the table.
    """
    size = table.num_embeddings
    if not is_tracing(position_ids) and (largest := int(position_ids.max())) >= size:
        raise UserError(
            "a sequence is longer than the table of learned positions",
            got=f"position {largest}",
            expected=f"positions below max_position_embeddings={size}",
            fix="shorten the sequence or max_new_tokens, or train with more positions or with RoPE",
        )
    return table(position_ids)


class GPTModel(GPTPreTrainedModel):
    """The decoder without a head: token ids (batch, seq) -> hidden states (batch, seq, hidden_size)."""

    def __init__(self, config: GPTConfig):
        super().__init__(config)
        # No padding_idx: with pad = eos, as is common, it would keep the embedding of eos at zero.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.position_embedding_type == "learned"
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.rotary_emb = None if learned else GPTRotaryEmbedding(config)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(GPTDecoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers))
        pre_norm = config.norm_placement == "pre"  # post-norm layers end with their own norm
        self.norm = NORMS[config.norm_type](config.hidden_size, eps=config.norm_eps) if pre_norm else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MoeModelOutputWithPast:
        """Run the decoder.

        Args:
            input_ids: (batch, seq); or give inputs_embeds, (batch, seq, hidden_size).
            attention_mask: (batch, past + seq), 1 for tokens and 0 for padding; or a finished 4-D mask; or one of
                these per layer type.
            position_ids: (batch, seq). Without an attention mask, a new document starts where they restart, and its
                tokens attend to no earlier document.
            past_key_values: keys and values of earlier tokens.
            use_cache: return the keys and values.
        """
        paged_cache = kwargs.get("cache")  # as continuous batching passes it
        keeps_states = getattr(paged_cache, "convolution_states", None) is not None
        self._require_capable_backend(paged_cache is not None, keeps_states)
        if input_ids is not None and inputs_embeds is None:
            self._require_known_tokens(input_ids)
            inputs_embeds = self.embed_tokens(input_ids)
        elif input_ids is not None or inputs_embeds is None:
            raise ValueError("exactly one of input_ids and inputs_embeds is needed")

        # transformers looks for packed documents only if it is given position ids and no cache. It is given none but
        # the caller's position ids, since counted ones pack nothing and the search costs time; and not the cache that
        # starts here, which is empty and changes no mask, so that documents stay apart even if `use_cache` is on.
        masks: Mapping[str, torch.Tensor | None]
        if isinstance(attention_mask, dict):  # generation with a static cache makes the masks beforehand
            masks = attention_mask
        else:
            about = {"config": self.config, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
            about |= {"past_key_values": past_key_values, "position_ids": position_ids}
            kinds = {"full_attention" if kind == HYBRID else kind for kind in self.config.layer_types}
            masks = {kind: MASKS[kind](**about) for kind in kinds}
        of_call = position_ids if past_key_values is None else None
        around = {} if keeps_states else self._around(attention_mask, of_call, inputs_embeds.shape[1])
        position_ids = self._positions(position_ids, inputs_embeds, attention_mask, past_key_values)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)

        if self.embed_positions is not None:
            inputs_embeds = inputs_embeds + positions_from_table(self.embed_positions, position_ids)
        hidden_states = self.dropout(inputs_embeds)
        rotation = None if self.rotary_emb is None else self.rotary_emb(hidden_states, position_ids)
        for layer, layer_type in zip(self.layers, self.config.layer_types, strict=True):
            hidden_states = layer(
                hidden_states,
                attention_mask=masks["full_attention" if layer_type == HYBRID else layer_type],
                past_key_values=past_key_values,
                position_embeddings=rotation,
                position_ids=position_ids,
                use_cache=use_cache,
                **around,
                **kwargs,
            )
        return MoeModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)

    def _require_capable_backend(self, paged: bool, keeps_states: bool) -> None:
        """Refuse an attention backend, however it was set, that would ignore an option of the config.

        Args:
            paged: whether there is a paged cache.
            keeps_states: whether the paged cache has a place for the states of convolutions.
        """
        backend, config = self.config._attn_implementation, self.config
        paged = paged or "paged" in backend
        cannot = {
            "attention_sinks": ("sdpa" in backend, "eager"),
            "attn_logit_softcapping": (
                "sdpa" in backend or paged,
                "eager, flex_attention or flash attention",
            ),
            # These keep the cache to themselves, and may have no place for the convolution's state.
            "qkv_conv_size": (
                (paged and not keeps_states) or backend in SERVERS,
                "eager, sdpa, flex_attention or flash attention",
            ),
        }
        for option, (unable, able) in cannot.items():
            if unable and getattr(config, option):
                raise UserError(
                    f"the attention backend {backend!r} cannot honour {option}",
                    got=f"{option}={getattr(config, option)}",
                    expected=able,
                    fix='model.set_attn_implementation("eager")',
                )

    def _around(
        self,
        attention_mask: torch.Tensor | Mapping[str, torch.Tensor | None] | None,
        position_ids: torch.Tensor | None,
        length: int,
    ) -> dict[str, torch.Tensor | None]:
        """Return the attention's arguments `real` and `same`, by which convolutions leave padding and documents apart.

        Args:
            position_ids: None if there is a cache, whose rows are of one document.
            length: number of positions, of which the mask may have more: those in the cache.
        """
        if not self.config.qkv_conv_size:
            return {}
        mask = attention_mask.get("linear_attention") if isinstance(attention_mask, Mapping) else attention_mask
        if mask is not None and mask.ndim == 2:
            return {"real": mask[:, -length:]}
        if mask is not None and mask.shape[-2:] != (length, length):
            raise UserError(
                "qkv_conv_size finds no padding in a finished mask for a cache",
                got=f"a mask of {mask.ndim} dimensions",
                expected="a mask of two dimensions, 1 for tokens and 0 for padding",
            )
        return {"same": same_document(self.config.qkv_conv_size - 1, mask, position_ids)}

    def _require_known_tokens(self, input_ids: torch.Tensor) -> None:
        """Refuse token ids without an embedding. On a GPU the check would stall the stream, and CUDA reports them."""
        known = self.config.vocab_size  # not the table's own size: PEFT may have wrapped it
        if input_ids.device.type != "cpu" or input_ids.numel() == 0 or is_tracing(input_ids):
            return
        if (largest := int(input_ids.max())) >= known:
            raise UserError(
                "a token id is not in the vocabulary",
                got=f"token id {largest}",
                expected=f"ids below vocab_size={known}",
                fix="use the tokenizer that the model was trained with, or resize_token_embeddings",
            )

    def _positions(
        self,
        position_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None,
        past_key_values: Cache | None,
    ) -> torch.Tensor:
        """Return the position ids, (batch or 1, seq): the given ones, or counted ones.

        Rotary positions are relative, so that padding on the left may count; learned positions start at the first real
        token.
        """
        if position_ids is not None:
            return position_ids
        seq_length = inputs_embeds.shape[1]
        if self.embed_positions is not None and isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -seq_length:]
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        return (torch.arange(seq_length, device=inputs_embeds.device) + past_length).unsqueeze(0)


class GPTForCausalLM(GPTPreTrainedModel, GenerationMixin):
    """The decoder with a language-model head, for next-token training and generation."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}

    def __init__(self, config: GPTConfig):
        super().__init__(config)
        self.model = GPTModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MoeCausalLMOutputWithPast:
        """Return logits (batch, seq, vocab_size), and the loss if there are labels; other arguments as in `GPTModel`.

        `aux_loss` is the unweighted router losses. In training mode the loss includes them, weighted by the
        micro-batch's share of the optimizer step if `num_items_in_batch` is given (`weighted_router_loss`). In
        evaluation mode the loss is the cross-entropy alone.

        Args:
            labels: (batch, seq), the input ids with -100 at tokens without a loss; shifted here.
            output_router_logits: return the router logits and `aux_loss`; by default as the config says.
            logits_to_keep: number of last positions to compute logits for (0: all), or indices of positions.
        """
        # Recording takes time, and torch.compile then makes more than one graph: unless the caller or the config asks
        # for the logits, only when there may be a loss to add to.
        if output_router_logits is None:
            output_router_logits = self.config.output_router_logits
        if output_router_logits is None:
            output_router_logits = self.training or labels is not None
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_router_logits=output_router_logits,
            **kwargs,
        )
        logits = self.lm_head(at_positions(outputs.last_hidden_state, logits_to_keep))
        if (cap := self.config.final_logit_softcapping) is not None:
            logits = cap * torch.tanh(logits / cap)
        loss, aux_loss = None, None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        if output_router_logits:
            positions = position_ids if past_key_values is None else None
            counted = tokens_to_balance(attention_mask, positions, outputs.last_hidden_state.shape[:2])
            aux_loss = router_losses(outputs.router_logits, self.config, counted).to(logits.device)
            if loss is not None and labels is not None and self.training:
                targets = kwargs.get("shift_labels")
                targets = (labels[:, 1:] if targets is None else targets).ne(-100).sum()
                of_step = kwargs.get("num_items_in_batch")
                added = weighted_router_loss(aux_loss, self.config.router_aux_loss_coef, targets, of_step)
                loss = loss + added.to(loss.device)
        return MoeCausalLMOutputWithPast(
            loss=loss,
            aux_loss=aux_loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
        )


class GPTForSequenceClassification(GenericForSequenceClassification, GPTPreTrainedModel):
    """The decoder with a linear head, `score`, on the last token that is not padding; a reward model has one label.

    Padding is recognised by `pad_token_id`, which must differ from the end-of-sequence token: otherwise the token
    before the end is scored.
    """


class GPTForTokenClassification(GenericForTokenClassification, GPTPreTrainedModel):
    """The decoder with a linear head, `score`, on every token."""


class GPTForQuestionAnswering(GenericForQuestionAnswering, GPTPreTrainedModel):
    """The decoder with a linear head, `qa_outputs`, for the start and the end of the answer."""


__all__ = [
    "GPTForCausalLM",
    "GPTForQuestionAnswering",
    "GPTForSequenceClassification",
    "GPTForTokenClassification",
    "GPTModel",
    "GPTPreTrainedModel",
]

"""Configuration of the GPT: one decoder-only transformer, from GPT-1 to today's sparse models.

Options have the names that transformers gives them, so that tools that read a config (caches, servers) find them.
"""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters

from ...errors import UserError, raise_all

T = TypeVar("T")
# A field that may be None until `__post_init__` fills it in; type checkers see the type that it has from then on.
if TYPE_CHECKING:
    FilledIn = Annotated[T, "filled in by __post_init__"]
else:
    FilledIn = T | None
DEFAULT: Any = None  # the value that `__post_init__` replaces

CHOICES = {
    "norm_type": ("rmsnorm", "layernorm"),
    "norm_placement": ("pre", "post"),
    "position_embedding_type": ("rope", "learned"),
    "mlp_type": ("gated", "mlp"),
    "hidden_act": tuple(ACT2FN),
}
POSITIVE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
HYBRID = "hybrid"  # transformers' name for layers with keys and values and a state in the cache
LAYER_CHOICES = {"layer_types": ("full_attention", "sliding_attention", HYBRID), "mlp_layer_types": ("dense", "sparse")}
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
DROPOUTS = ("attention_dropout", "hidden_dropout", "embedding_dropout")


@strict
class GPTConfig(PreTrainedConfig):
    """Shape of a GPT; the defaults are those of modern models (pre-norm, RMSNorm, RoPE, SwiGLU, no biases).

    Published shapes are presets: `GPTConfig.from_preset("gpt2")`; `GPTConfig.preset_names()` lists them.

    Args:
        vocab_size: number of token ids.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the MLP. By default 4 * hidden_size, or for a gated MLP 8/3 of hidden_size
            rounded up to a multiple of 64, so that three matrices hold about as many weights as two (Shazeer 2020).
        num_hidden_layers: number of decoder layers.
        num_attention_heads: number of query heads.
        num_key_value_heads: number of key and value heads; by default one per query head (MHA), fewer is
            grouped-query attention (Ainslie et al. 2023), 1 is multi-query attention.
        head_dim: width of a head; by default hidden_size // num_attention_heads.
        max_position_embeddings: longest sequence; with learned positions, the size of their table.
        norm_type: `rmsnorm` (Zhang and Sennrich 2019) or `layernorm` (Ba et al. 2016).
        norm_placement: `pre`, before attention and MLP and once at the end (GPT-2 on), or `post`, after each sum
            (Vaswani et al. 2017, GPT-1).
        norm_eps: added to the variance; also known as rms_norm_eps and layer_norm_epsilon.
        position_embedding_type: `rope` (Su et al. 2021) or `learned`.
        rope_parameters: transformers' RoPE parameters, such as `{"rope_type": "default", "rope_theta": 10000.0}`;
            None if positions are learned.
        mlp_type: `gated`, down(act(gate(x)) * up(x)), which is SwiGLU with hidden_act `silu`; or `mlp`,
            down(act(up(x))).
        hidden_act: activation, a key of transformers' ACT2FN.
        qk_norm: norm the queries and keys of each head before RoPE (Henry et al. 2020; as in Qwen3).
        qkv_conv_size: kernel size of a causal convolution of queries, keys and values over the positions, feature by
            feature (So et al. 2021, "Primer"); 0 for none. A head then sees the tokens before a token, and finds what
            followed them earlier in one layer.
        sliding_window: number of positions, including its own, that a token attends to in sliding layers.
        layer_types: `full_attention` or `sliding_attention` for each layer; by default `sliding_attention` in all
            layers if sliding_window is given. All are `hybrid`, full attention whose cache holds more than keys and
            values, with qkv_conv_size. GPT-3 alternates them (Child et al. 2019; Brown et al. 2020).
        attention_sinks: a learned logit per head that takes attention from the tokens (Xiao et al. 2024; gpt-oss).
        attn_logit_softcapping: bound attention scores by cap * tanh(score / cap) (Gemma 2).
        final_logit_softcapping: the same for the output logits.
        num_experts: experts of a sparse MLP (Shazeer et al. 2017; as in Mixtral); 0 for a dense model.
        num_experts_per_tok: experts per token.
        moe_intermediate_size: width inside an expert; by default intermediate_size.
        num_shared_experts: experts that process every token, in addition to the routed ones (Dai et al. 2024,
            DeepSeekMoE).
        mlp_layer_types: `dense` or `sparse` for each layer; by default all sparse if there are experts.
        norm_topk_prob: normalise the chosen experts' weights to a sum of 1.
        router_aux_loss_coef: weight of the load-balancing loss (Fedus et al. 2021); always 0 for a dense model.
        router_z_loss_coef: weight of the router's z-loss, which keeps its logits small (Zoph et al. 2022).
        output_router_logits: return router logits and the router losses, unless the caller says otherwise. None, the
            default if there are experts: in training mode and if labels are given, as training does not balance the
            experts without the losses, and inference does not need them.
        attention_bias: biases in the four attention projections.
        mlp_bias: biases in the MLP.
        attention_dropout: dropout of the attention weights.
        hidden_dropout: dropout of the outputs of attention and MLP, before the residual sum.
        embedding_dropout: dropout of the embeddings.
        initializer_range: standard deviation of the initial weights; divided by sqrt(2 * num_hidden_layers) for the
            projections that write to the residual stream (Radford et al. 2019).
        tie_word_embeddings: use the embedding table as the output layer.
        use_cache: return the keys and values by default.
    """

    model_type = "alignment_gpt"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
        "rms_norm_eps": "norm_eps",
        "layer_norm_epsilon": "norm_eps",
    }
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }
    # TRL reads `config.auto_map` of every architecture that transformers itself does not export.
    auto_map: ClassVar[dict[str, str]] = {}

    vocab_size: int = 32000
    hidden_size: int = 768
    intermediate_size: FilledIn[int] = DEFAULT
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: FilledIn[int] = DEFAULT
    head_dim: FilledIn[int] = DEFAULT
    max_position_embeddings: int = 2048
    norm_type: str = "rmsnorm"
    norm_placement: str = "pre"
    norm_eps: float = 1e-5
    position_embedding_type: str = "rope"
    rope_parameters: RopeParameters | dict | None = None
    mlp_type: str = "gated"
    hidden_act: str = "silu"
    qk_norm: bool = False
    qkv_conv_size: int = 0
    sliding_window: int | None = None
    layer_types: FilledIn[list[str]] = DEFAULT
    attention_sinks: bool = False
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    num_experts: int = 0
    num_experts_per_tok: int = 2
    moe_intermediate_size: FilledIn[int] = DEFAULT
    num_shared_experts: int = 0
    mlp_layer_types: FilledIn[list[str]] = DEFAULT
    norm_topk_prob: bool = True
    router_aux_loss_coef: float | int = 0.01
    router_z_loss_coef: float | int = 0.001
    output_router_logits: bool | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    embedding_dropout: float | int = 0.0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # Aliases come first: the sizes derived below depend on them.
        for alias, name in self.attribute_map.items():
            if alias in kwargs:
                setattr(self, name, kwargs.pop(alias))
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // max(self.num_attention_heads, 1)
        if self.intermediate_size is None:
            gated = self.mlp_type == "gated"
            self.intermediate_size = -(-8 * self.hidden_size // (3 * 64)) * 64 if gated else 4 * self.hidden_size
        if self.layer_types is None:
            kind = "sliding_attention" if self.sliding_window else HYBRID if self.qkv_conv_size else "full_attention"
            self.layer_types = [kind] * self.num_hidden_layers
        self._fill_in_experts()
        self.base_model_tp_plan = self._tensor_parallel_plan()
        rope_given = bool(self.rope_parameters or kwargs.get("rope_scaling") or "rope_theta" in kwargs)
        super().__post_init__(**kwargs)
        if self.position_embedding_type == "learned":
            if rope_given:
                raise UserError(
                    "RoPE parameters are given, but positions are learned",
                    got=self.rope_parameters,
                    expected='rope_parameters=None, or position_embedding_type="rope"',
                    fix="drop one of the two",
                )
            self.rope_parameters = None  # transformers fills it in for every config that has the field

    def _fill_in_experts(self) -> None:
        if self.mlp_layer_types is None:
            self.mlp_layer_types = ["sparse" if self.num_experts else "dense"] * self.num_hidden_layers
        if self.moe_intermediate_size is None:
            self.moe_intermediate_size = self.intermediate_size
        if self.num_experts == 0:  # TRL adds the router loss of every model that has a coefficient
            self.router_aux_loss_coef = self.router_z_loss_coef = 0.0
            self.output_router_logits = bool(self.output_router_logits)

    def _tensor_parallel_plan(self) -> dict[str, str]:
        """Return transformers' tensor-parallel styles of the layers' modules, for those that this shape has."""
        plan = {}
        if not self.qkv_conv_size:  # whose weights belong to no module that a style could split
            plan = {f"self_attn.{name}_proj": "colwise" for name in ("q", "k", "v")} | {"self_attn.o_proj": "rowwise"}
        inner = ("gate_proj", "up_proj") if self.mlp_type == "gated" else ("up_proj",)
        mlp = dict.fromkeys(inner, "colwise") | {"down_proj": "rowwise"}
        if "dense" in self.mlp_layer_types:
            plan |= {f"mlp.{name}": style for name, style in mlp.items()}
        if "sparse" in self.mlp_layer_types:
            plan |= {"mlp.experts.gate_up_proj": "packed_colwise", "mlp.experts.down_proj": "rowwise"}
            plan["mlp.experts"] = "moe_tp_experts"
        if "sparse" in self.mlp_layer_types and self.num_shared_experts:
            plan |= {f"mlp.shared_experts.{name}": style for name, style in mlp.items()}
        return {f"layers.*.{name}": style for name, style in plan.items()}

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "GPTConfig":
        """Return the config of a preset, with the given fields changed.

        Raises:
            UserError: there is no such preset.
        """
        from .presets import preset_fields

        return cls(**preset_fields(name) | overrides)

    @staticmethod
    def preset_names() -> list[str]:
        """Return the names that `from_preset` knows, from the oldest model to the newest."""
        from .presets import PRESETS

        return list(PRESETS)

    def validate_architecture(self) -> None:
        """Report all settings that no model can have; `@strict` calls this after `__init__` and on saving."""
        errors = [
            UserError(f"{name} is not known", got=repr(getattr(self, name)), expected="one of " + ", ".join(choices))
            for name, choices in CHOICES.items()
            if getattr(self, name) not in choices
        ]
        errors += [
            UserError(f"{name} is too small", got=getattr(self, name), expected="at least 1")
            for name in POSITIVE
            if getattr(self, name) < 1
        ]
        if self.num_experts and "sparse" not in self.mlp_layer_types:
            got = f"num_experts {self.num_experts}, mlp_layer_types all dense"
            errors.append(UserError("no layer has experts", got=got, expected="a sparse layer, or num_experts 0"))
        if self.qkv_conv_size < 0 or self.qkv_conv_size == 1:
            errors.append(
                UserError("qkv_conv_size is out of range", got=self.qkv_conv_size, expected="at least 2, or 0 for none")
            )
        errors += [
            UserError(f"{name} is out of range", got=getattr(self, name), expected="at least 0 and below 1")
            for name in DROPOUTS
            if not 0 <= getattr(self, name) < 1
        ]
        errors += [
            UserError(f"{name} is out of range", got=getattr(self, name), expected="above 0, or None for no cap")
            for name in CAPS
            if getattr(self, name) is not None and getattr(self, name) <= 0
        ]
        raise_all(errors or self._shape_errors() + self._rope_errors() + self._layer_errors() + self._expert_errors())

    def _shape_errors(self) -> list[UserError]:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        errors = []
        if self.head_dim == self.hidden_size // heads and self.hidden_size % heads:
            errors.append(
                UserError(
                    "the heads do not fill the hidden size",
                    got=f"hidden_size={self.hidden_size}, num_attention_heads={heads}",
                    expected="hidden_size a multiple of num_attention_heads",
                    fix="change one of the two, or set head_dim",
                )
            )
        if heads % kv_heads:
            errors.append(
                UserError(
                    "the query heads do not divide among the key-value heads",
                    got=f"num_attention_heads={heads}, num_key_value_heads={kv_heads}",
                    expected="num_attention_heads a multiple of num_key_value_heads",
                )
            )
        return errors

    def _layer_errors(self) -> list[UserError]:
        errors = []
        for name, choices in LAYER_CHOICES.items():
            types = getattr(self, name)
            if len(types) != self.num_hidden_layers:
                errors.append(
                    UserError(
                        f"{name} does not fit the number of layers",
                        got=f"{len(types)} types, num_hidden_layers={self.num_hidden_layers}",
                        expected="one type per layer",
                    )
                )
            errors += [
                UserError(f"{name} has an unknown type", got=repr(one), expected="one of " + ", ".join(choices))
                for one in sorted(set(types) - set(choices))
            ]
        slides = "sliding_attention" in self.layer_types
        if slides and (self.sliding_window is None or self.sliding_window < 1):
            errors.append(
                UserError(
                    "sliding layers need a window",
                    got=f"sliding_window={self.sliding_window}",
                    expected="sliding_window of at least 1",
                )
            )
        if (self.qkv_conv_size > 0) != (set(self.layer_types) == {HYBRID}):
            errors.append(
                UserError(
                    "layer_types do not fit qkv_conv_size",
                    got=f"qkv_conv_size={self.qkv_conv_size}, layer_types {', '.join(sorted(set(self.layer_types)))}",
                    expected=f"{HYBRID} in all layers with a convolution, and in none without",
                    fix="leave layer_types and sliding_window out",
                )
            )
        return errors

    def _expert_errors(self) -> list[UserError]:
        if self.num_experts == 0:
            sparse = "sparse" in self.mlp_layer_types
            return (
                [UserError("sparse layers need experts", got="num_experts=0", expected="at least 1")] if sparse else []
            )
        errors = []
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            errors.append(
                UserError(
                    "num_experts_per_tok is out of range",
                    got=f"num_experts_per_tok={self.num_experts_per_tok}, num_experts={self.num_experts}",
                    expected="num_experts_per_tok from 1 to num_experts",
                )
            )
        if self.mlp_type != "gated" or self.mlp_bias:
            errors.append(
                UserError(
                    "experts are gated and have no biases",
                    got=f"mlp_type={self.mlp_type!r}, mlp_bias={self.mlp_bias}",
                    expected='mlp_type="gated", mlp_bias=False',
                )
            )
        if self.router_z_loss_coef and not self.router_aux_loss_coef:
            errors.append(
                UserError(
                    "the z-loss needs the load-balancing loss, which is off",
                    got=f"router_aux_loss_coef=0, router_z_loss_coef={self.router_z_loss_coef}",
                    expected="both, or neither",
                )
            )
        return errors

    def _rope_errors(self) -> list[UserError]:
        if self.position_embedding_type != "rope":
            return []
        errors, rope = [], self.rope_parameters or {}
        if self.head_dim % 2:
            errors.append(
                UserError(
                    "RoPE rotates pairs of features, and a head has an odd number of features",
                    got=f"head_dim={self.head_dim}",
                    expected="an even head_dim",
                )
            )
        known = ("default", *ROPE_INIT_FUNCTIONS)
        if rope["rope_type"] not in known:
            errors.append(
                UserError(
                    "rope_type is not known",
                    got=rope["rope_type"],
                    expected="one of " + ", ".join(known),
                )
            )
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            errors.append(
                UserError(
                    "this model has no partial RoPE",
                    got=f"partial_rotary_factor={rope['partial_rotary_factor']}",
                    expected="partial_rotary_factor=1.0",
                )
            )
        return errors


__all__ = ["GPTConfig"]

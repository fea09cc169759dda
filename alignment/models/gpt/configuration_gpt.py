"""Configuration of the GPT: one decoder-only transformer, from the GPT-2 shape to the modern one."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters

from ...errors import UserError, raise_all

CHOICES = {
    "norm_type": ("rmsnorm", "layernorm"),
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
DROPOUTS = ("attention_dropout", "hidden_dropout", "embedding_dropout")


@strict
class GPTConfig(PreTrainedConfig):
    """Shape of a GPT; the defaults are the modern one (pre-norm, RMSNorm, RoPE, SwiGLU, no biases).

    GPT-2's shape is `GPTConfig(norm_type="layernorm", position_embedding_type="learned", mlp_type="mlp",
    hidden_act="gelu_new", attention_bias=True, mlp_bias=True, tie_word_embeddings=True)`.

    Args:
        vocab_size: number of token ids.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the MLP. By default 4 * hidden_size, or 8/3 of it rounded up to a multiple of
            64 when gated, so that the three matrices hold about as many weights as the two (Shazeer 2020).
        num_hidden_layers: number of decoder layers.
        num_attention_heads: number of query heads.
        num_key_value_heads: number of key and value heads; by default one per query head (MHA), fewer is
            grouped-query attention (Ainslie et al. 2023), 1 is multi-query attention.
        head_dim: width of a head; by default hidden_size // num_attention_heads.
        max_position_embeddings: longest sequence; the size of the table when positions are learned.
        norm_type: `rmsnorm` (Zhang and Sennrich 2019) or `layernorm` (Ba et al. 2016).
        norm_eps: added to the variance; also known as rms_norm_eps and layer_norm_epsilon.
        position_embedding_type: `rope` (Su et al. 2021) or `learned`.
        rope_parameters: transformers' RoPE parameters, such as `{"rope_type": "default", "rope_theta": 10000.0}`;
            None when positions are learned.
        mlp_type: `gated`, down(act(gate(x)) * up(x)), which is SwiGLU with hidden_act `silu`; or `mlp`,
            down(act(up(x))).
        hidden_act: activation, a key of transformers' ACT2FN.
        attention_bias: biases in the four attention projections.
        mlp_bias: biases in the MLP.
        attention_dropout: dropout of the attention weights.
        hidden_dropout: dropout of what attention and MLP add to the residual stream.
        embedding_dropout: dropout of the embeddings.
        initializer_range: standard deviation of the initial weights; the projections that write to the residual
            stream get it divided by sqrt(2 * num_hidden_layers) (Radford et al. 2019).
        tie_word_embeddings: the output layer is the embedding table.
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
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }
    # TRL reads `config.auto_map` of every architecture that transformers itself does not export.
    auto_map = {}

    vocab_size: int = 32000
    hidden_size: int = 768
    intermediate_size: int | None = None
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    norm_type: str = "rmsnorm"
    norm_eps: float = 1e-5
    position_embedding_type: str = "rope"
    rope_parameters: RopeParameters | dict | None = None
    mlp_type: str = "gated"
    hidden_act: str = "silu"
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

    def __post_init__(self, **kwargs):
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
        rope_given = bool(self.rope_parameters or kwargs.get("rope_scaling") or "rope_theta" in kwargs)
        super().__post_init__(**kwargs)
        if self.position_embedding_type == "learned":
            if rope_given:
                raise UserError(
                    "RoPE parameters are given, yet positions are learned",
                    got=self.rope_parameters,
                    needed='rope_parameters=None, or position_embedding_type="rope"',
                    mend="drop one of the two",
                )
            self.rope_parameters = None  # transformers fills it in for every config that has the field

    def validate_architecture(self):
        """Report every setting that cannot be built, at once; `@strict` calls this after `__init__` and on saving."""
        errors = [
            UserError(f"{name} is not known", got=repr(getattr(self, name)), needed="one of " + ", ".join(choices))
            for name, choices in CHOICES.items()
            if getattr(self, name) not in choices
        ]
        errors += [
            UserError(f"{name} is too small", got=getattr(self, name), needed="at least 1")
            for name in POSITIVE
            if getattr(self, name) < 1
        ]
        errors += [
            UserError(f"{name} is out of range", got=getattr(self, name), needed="at least 0 and below 1")
            for name in DROPOUTS
            if not 0 <= getattr(self, name) < 1
        ]
        raise_all(errors or self._shape_errors() + self._rope_errors())

    def _shape_errors(self) -> list[UserError]:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        errors = []
        if self.head_dim == self.hidden_size // heads and self.hidden_size % heads:
            errors.append(
                UserError(
                    "the heads do not fill the hidden size",
                    got=f"hidden_size={self.hidden_size}, num_attention_heads={heads}",
                    needed="hidden_size a multiple of num_attention_heads",
                    mend="change one of the two, or set head_dim",
                )
            )
        if heads % kv_heads:
            errors.append(
                UserError(
                    "the query heads do not divide among the key-value heads",
                    got=f"num_attention_heads={heads}, num_key_value_heads={kv_heads}",
                    needed="num_attention_heads a multiple of num_key_value_heads",
                )
            )
        return errors

    def _rope_errors(self) -> list[UserError]:
        if self.position_embedding_type != "rope":
            return []
        errors = []
        if self.head_dim % 2:
            errors.append(
                UserError(
                    "RoPE turns pairs of features, and a head has an odd number of them",
                    got=f"head_dim={self.head_dim}",
                    needed="an even head_dim",
                )
            )
        known = ("default", *ROPE_INIT_FUNCTIONS)
        if self.rope_parameters["rope_type"] not in known:
            errors.append(
                UserError(
                    "rope_type is not known", got=self.rope_parameters["rope_type"], needed="one of " + ", ".join(known)
                )
            )
        if self.rope_parameters.get("partial_rotary_factor", 1.0) != 1.0:
            errors.append(
                UserError(
                    "RoPE turns whole heads here",
                    got=f"partial_rotary_factor={self.rope_parameters['partial_rotary_factor']}",
                    needed="partial_rotary_factor=1.0",
                )
            )
        return errors


__all__ = ["GPTConfig"]

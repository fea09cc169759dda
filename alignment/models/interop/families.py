"""The correspondence between options of transformers' model families and of the GPT.

A family's table pairs options with the same meaning. Every other option must have the value that all models of the
other side have; otherwise it is reported as a misfit. A new option on either side is thus refused,
never dropped.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from alignment.models.gpt import GPTConfig


@dataclass(frozen=True)
class Family:
    """An architecture of transformers.

    Attributes:
        model_type: transformers' name of it.
        paired: its options -> the GPT's options with the same meaning.
        fixed: options of the GPT with one value in all its models, if that is not GPTConfig's default.
        silent: its options that do not affect a causal language model.
    """

    model_type: str
    paired: dict[str, str]
    fixed: dict[str, Any] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()

    @property
    def has_experts(self) -> bool:
        return "num_experts" in self.paired.values()


@dataclass(frozen=True)
class Misfit:
    """An option that the other side cannot express: its value, and the value (or a phrase for it) that is needed."""

    option: str
    has: Any
    expected: Any


def same(*names: str) -> dict[str, str]:
    """Pair options that have the same name on both sides."""
    return {name: name for name in names}


SHARED = same("vocab_size", "initializer_range", "tie_word_embeddings")
SHARED |= same("bos_token_id", "eos_token_id", "pad_token_id")
CLASSIC = SHARED | {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "norm_eps",
    "resid_pdrop": "hidden_dropout",
    "embd_pdrop": "embedding_dropout",
    "attn_pdrop": "attention_dropout",
}
MODERN = SHARED | same(
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rope_parameters",
    "attention_dropout",
    "use_cache",
)
MODERN |= {"rms_norm_eps": "norm_eps"}
CLASSIC_SHAPE = {
    "norm_type": "layernorm",
    "position_embedding_type": "learned",
    "mlp_type": "mlp",
    "attention_bias": True,
    "mlp_bias": True,
}
# Options of the head of GPT2DoubleHeadsModel, which language models do not have.
SUMMARY = frozenset(f"summary_{name}" for name in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout"))
FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            "openai-gpt",
            CLASSIC | {"afn": "hidden_act"},
            fixed=CLASSIC_SHAPE | {"norm_placement": "post"},
            silent=SUMMARY,
        ),
        Family(
            "gpt2",
            CLASSIC | {"activation_function": "hidden_act", "n_inner": "intermediate_size"} | same("use_cache"),
            fixed=CLASSIC_SHAPE,
            silent=SUMMARY,
        ),
        Family("llama", MODERN | same("intermediate_size", "attention_bias", "mlp_bias")),
        Family(
            "qwen3",
            MODERN | same("intermediate_size", "attention_bias", "layer_types", "sliding_window"),
            fixed={"qk_norm": True},
            silent=frozenset({"use_sliding_window", "max_window_layers"}),  # layer_types is derived from them
        ),
        Family(
            "mixtral",
            MODERN
            | {"intermediate_size": "moe_intermediate_size", "num_local_experts": "num_experts"}
            | same("num_experts_per_tok", "router_aux_loss_coef", "output_router_logits", "sliding_window"),
            fixed={"router_z_loss_coef": 0.0},
        ),
    )
}
# GPT-1's names of activations -> transformers' names.
GPT1_ACTIVATIONS = {"gelu": "gelu_new", "swish": "silu"}

# Options that only training uses do not prevent a conversion; the conversion reports those that it drops.
TRAINING_ONLY = frozenset(
    {
        "attention_dropout",
        "hidden_dropout",
        "embedding_dropout",
        "router_z_loss_coef",
        "router_jitter_noise",
        "output_router_logits",
    }
)
# Options that depend on others, which are compared: position_embedding_type, layer_types.
FOLLOWING = frozenset({"rope_parameters", "sliding_window"})
OF_EXPERTS = frozenset(
    {
        "num_experts_per_tok",
        "moe_intermediate_size",
        "num_shared_experts",
        "mlp_layer_types",
        "norm_topk_prob",
        "router_aux_loss_coef",
    }
)


def to_gpt_config(theirs: PreTrainedConfig) -> GPTConfig:
    """Convert a family's config without misfits to a GPT's."""
    family = FAMILIES[theirs.model_type]
    options = family.fixed | {ours: getattr(theirs, name) for name, ours in family.paired.items()}
    options["attention_dropout"] = options["attention_dropout"] or 0.0  # Llama's may be None
    if theirs.model_type == "openai-gpt":
        options["hidden_act"] = GPT1_ACTIVATIONS.get(options["hidden_act"], options["hidden_act"])
    if family.has_experts:
        options["intermediate_size"] = options["moe_intermediate_size"]
    return GPTConfig(**options)


def from_gpt_config(config: GPTConfig, model_type: str) -> PreTrainedConfig:
    """Convert a GPT's config without misfits to a family's."""
    options = {name: getattr(config, ours) for name, ours in FAMILIES[model_type].paired.items()}
    if "sliding_window" in options and "sliding_attention" not in config.layer_types:
        options["sliding_window"] = None
    if model_type == "qwen3":
        options["use_sliding_window"] = options["sliding_window"] is not None
    if model_type == "mixtral":  # with router logits, its generation fails if there is padding
        options["output_router_logits"] = False
    return AutoConfig.for_model(model_type, **options)


def import_misfits(theirs: PreTrainedConfig) -> list[Misfit]:
    """Return the options of a family's config that the GPT lacks and that do not have their defaults."""
    family = FAMILIES[theirs.model_type]
    usual = {
        name: value
        for name, value in _own_defaults(type(theirs)).items()
        if name not in {*family.paired, *family.silent, *TRAINING_ONLY}
    }
    found = [Misfit(name, getattr(theirs, name), value) for name, value in usual.items()]
    if "rope_parameters" in family.paired:
        turned = theirs.rope_parameters.get("partial_rotary_factor", 1.0)
        found.append(Misfit("rope_parameters.partial_rotary_factor", turned, 1.0))
    quantization = getattr(theirs, "quantization_config", None)
    found.append(Misfit("quantization_config", quantization, None))
    return [misfit for misfit in found if misfit.has != misfit.expected]


def export_misfits(config: GPTConfig, model_type: str) -> list[Misfit]:
    """Return the options of a GPT that a family cannot express, with their values in all models of the family."""
    family = FAMILIES[model_type]
    expected = _own_defaults(GPTConfig) | _needed_layers(config, family) | family.fixed
    if model_type == "gpt2":
        expected["num_key_value_heads"] = config.num_attention_heads
        expected["head_dim"] = config.hidden_size // config.num_attention_heads
    moot = FOLLOWING | TRAINING_ONLY | ({"intermediate_size"} if family.has_experts else OF_EXPERTS)
    found = [
        Misfit(name, getattr(config, name), value)
        for name, value in expected.items()
        if name not in {*family.paired.values(), *moot} and getattr(config, name) != value
    ]
    if model_type in ("gpt2", "llama") and config.hidden_size % config.num_attention_heads:
        multiple = f"a multiple of num_attention_heads={config.num_attention_heads}"
        found.append(Misfit("hidden_size", config.hidden_size, multiple))
    if family.has_experts and config.num_experts == 0:
        found.append(Misfit("num_experts", 0, "at least 1"))
    return found


def left_behind(config: PreTrainedConfig, model_type: str) -> dict[str, Any]:
    """Return the options that only training uses, that are set in a config and that the other side lacks."""
    paired = FAMILIES[model_type].paired
    carried = {*paired.values()} - {"output_router_logits"} if isinstance(config, GPTConfig) else paired
    values = {name: getattr(config, name, 0) for name in sorted(TRAINING_ONLY.difference(carried))}
    if values.get("output_router_logits", 0) is None:  # the GPT's default: in training
        values["output_router_logits"] = True
    return {name: value for name, value in values.items() if value}


def _needed_layers(config: GPTConfig, family: Family) -> dict[str, list[str]]:
    """Return the layer types that a family can express: all layers have the same type."""
    slides = "sliding_window" in family.paired and "sliding_attention" in config.layer_types
    return {
        "layer_types": ["sliding_attention" if slides else "full_attention"] * config.num_hidden_layers,
        "mlp_layer_types": ["sparse" if family.has_experts else "dense"] * config.num_hidden_layers,
    }


def _own_defaults(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    """Return the options that a config class adds to those of all configs, with their defaults."""
    common = {one.name for one in fields(PreTrainedConfig)}
    return {one.name: one.default for one in fields(config_class) if one.name not in common}

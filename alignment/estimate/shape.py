"""The sizes of a model, from its config, without allocating its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from alignment.models.adapters import fitted, require_targets
from alignment.trainers.pretrain.muon import hidden_matrices

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

RMS_ELEMENTS, LAYER_NORM_ELEMENTS = 3, 2
GATED_ELEMENTS, PLAIN_ELEMENTS, GELU_NEW_ELEMENTS = 4, 2, 5


@dataclass(frozen=True)
class Shape:
    """The sizes that memory and time depend on.

    Attributes:
        parameters: in total, including adapters; tied parameters count once.
        trainable: parameters that are updated.
        matrix_parameters: parameters that a token is multiplied by: the output layer but no embedding tables, and only
            the experts that the token is routed to.
        hidden_matrices: parameters that Muon trains.
        quantisable: weights that bitsandbytes quantises: linear layers, except the output layer, a score head, and
            experts that are stored as one tensor.
        attention_width: heads times head dimension.
        kv_width: key and value heads times head dimension.
        mlp_width: inner width of the MLP; for experts, of all that a token is routed to.
        norm_elements: tensors of the model's width that a norm keeps for the backward pass (counted in transformers'
            modules: LayerNorm its input and output, RMSNorm the scaled input too).
        mlp_elements: tensors of the MLP's width that are kept: input and output of the activation, and the gate.
        dropout: of attention weights.
        adapter_dropout: of an adapter's input, of which a copy is kept.
        has_adapter: adapters are trained on frozen weights.
        trains_rows: an adapter replaces rows of the embeddings.
        has_output: the model has an output layer; a classifier has none.
        qk_norm: queries and keys are normalised.
        qkv_conv: queries, keys and values are convolved over the positions.
    """

    parameters: int
    trainable: int
    matrix_parameters: int
    hidden_matrices: int
    quantisable: int
    hidden_size: int
    layers: int
    heads: int
    attention_width: int
    kv_width: int
    mlp_width: int
    vocab_size: int
    norm_elements: int
    mlp_elements: int
    dropout: float
    adapter_dropout: float = 0.0
    has_adapter: bool = False
    trains_rows: bool = False
    has_output: bool = True
    qk_norm: bool = False
    qkv_conv: bool = False


def shape_of(config: PreTrainedConfig, adapter: PeftConfig | None = None, kind: str = "causal-lm") -> Shape:
    """The shape of the model of a config, with an adapter on it if given.

    Args:
        kind: causal-lm or sequence-classification (one label).
    """
    model = empty_model(config, kind)
    tables = model.get_input_embeddings().weight.numel()
    output = model.get_output_embeddings() if kind == "causal-lm" else None
    tied = output is not None and output.weight is model.get_input_embeddings().weight
    base = sum(parameter.numel() for parameter in model.parameters())
    muons = hidden_matrices(model)
    hidden = sum(one.numel() for name, one in model.named_parameters() if name in muons)
    quantisable = sum(one.weight.numel() for one in _linear_layers(model) if one is not output)
    whole = with_adapter(model, adapter, kind) if adapter is not None else model
    sizes = [(one.numel(), one.requires_grad) for one in whole.parameters()]
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Shape(
        parameters=sum(size for size, _ in sizes),
        trainable=sum(size for size, learns in sizes if learns),
        matrix_parameters=base - (0 if tied else tables) - _idle_experts(text),
        hidden_matrices=hidden,
        quantisable=quantisable,
        hidden_size=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=heads,
        attention_width=heads * head_width,
        kv_width=(getattr(text, "num_key_value_heads", None) or heads) * head_width,
        mlp_width=_mlp_width(text),
        vocab_size=text.vocab_size,
        norm_elements=RMS_ELEMENTS if _has_rms_norm(text) else LAYER_NORM_ELEMENTS,
        mlp_elements=_mlp_elements(text),
        dropout=getattr(text, "attention_dropout", None) or getattr(text, "attn_pdrop", None) or 0.0,
        adapter_dropout=getattr(adapter, "lora_dropout", 0.0),
        has_adapter=adapter is not None,
        trains_rows=bool(getattr(adapter, "trainable_token_indices", None)),
        has_output=output is not None,
        qk_norm=bool(getattr(text, "qk_norm", False)),
        qkv_conv=bool(getattr(text, "qkv_conv_size", 0)),
    )


def _linear_layers(model: nn.Module) -> Iterator[nn.Linear]:
    """Yield the layers that bitsandbytes quantises; GPT-2's Conv1D is used like a Linear here."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for name, module in model.named_modules():
        if (type(module) is nn.Linear or isinstance(module, Conv1D)) and name != "score":
            yield cast("nn.Linear", module)


def empty_model(config: PreTrainedConfig, kind: str = "causal-lm") -> PreTrainedModel:
    """The model of a config on the meta device: modules and shapes without values."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    import alignment  # noqa: F401  (registers the architecture)

    config = copy.deepcopy(config)
    if kind == "sequence-classification":
        config.num_labels = 1
    auto = AutoModelForCausalLM if kind == "causal-lm" else AutoModelForSequenceClassification
    with torch.device("meta"):
        return auto.from_config(config)


def with_adapter(model: PreTrainedModel, adapter: PeftConfig, kind: str) -> PeftModel:
    """An empty model with an adapter; only the adapter and a classifier's score head are trainable."""
    import torch
    from peft import get_peft_model

    require_targets(model, adapter.target_modules or [])
    adapter = copy.deepcopy(adapter)
    adapter.inference_mode = False
    if kind == "sequence-classification":
        adapter.task_type, adapter.modules_to_save, adapter.trainable_token_indices = "SEQ_CLS", ["score"], None
    with torch.device("meta"), fitted("that the keys describe"):
        return get_peft_model(model, adapter)


def _has_rms_norm(config: PreTrainedConfig) -> bool:
    norm_type = getattr(config, "norm_type", None)  # GPTConfig has both kinds, and an epsilon under either name
    return norm_type == "rmsnorm" if norm_type else hasattr(config, "rms_norm_eps")


def _mlp_elements(config: PreTrainedConfig) -> int:
    """Tensors that the MLP keeps; transformers' models with RMSNorm are of Llama's family, whose MLPs are gated."""
    mlp_type = getattr(config, "mlp_type", None)
    if mlp_type == "gated" or (mlp_type is None and _has_rms_norm(config)):
        return GATED_ELEMENTS
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation_function", None)
    if mlp_type is not None:  # GPTConfig, whose gelu_new is one operation
        return PLAIN_ELEMENTS
    return GELU_NEW_ELEMENTS if activation in ("gelu_new", "gelu_fast") else PLAIN_ELEMENTS


def _mlp_width(config: PreTrainedConfig) -> int:
    width = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
    if not _experts(config):
        return width
    routed = config.num_experts_per_tok * (getattr(config, "moe_intermediate_size", None) or width)
    return routed + (getattr(config, "num_shared_experts", None) or 0) * routed // config.num_experts_per_tok


def _experts(config: PreTrainedConfig) -> int:
    return getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None) or 0


def _idle_experts(config: PreTrainedConfig) -> int:
    """Parameters of the experts that a token is not routed to; each is a gated MLP."""
    experts = _experts(config)
    if not experts:
        return 0
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    kinds = getattr(config, "mlp_layer_types", None) or ["sparse"] * config.num_hidden_layers
    idle = (experts - config.num_experts_per_tok) * 3 * width * config.hidden_size
    return sum(kind == "sparse" for kind in kinds) * idle

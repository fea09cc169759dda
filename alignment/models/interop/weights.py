"""Conversion of weights' names and layouts; those of Llama, Qwen3 and Mixtral are the GPT's own.

GPT-1 and GPT-2 keep queries, keys and values in one matrix, and their matrices are transposed, (in, out).
"""

import torch

Tensors = dict[str, torch.Tensor]

IN_LAYER = {
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
OUTSIDE = {
    "openai-gpt": {
        "model.embed_tokens": "transformer.tokens_embed",
        "model.embed_positions": "transformer.positions_embed",
    },
    "gpt2": {
        "model.embed_tokens": "transformer.wte",
        "model.embed_positions": "transformer.wpe",
        "model.norm": "transformer.ln_f",
    },
}
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def to_gpt_weights(tensors: Tensors, model_type: str, layers: int) -> Tensors:
    """Convert a family's weights to the GPT's; unknown names are kept, for the model to refuse."""
    if model_type not in OUTSIDE:
        return tensors
    modules = {theirs: ours for ours, theirs in _modules(model_type, layers).items()}
    joined = {f"transformer.h.{layer}.attn.c_attn": f"model.layers.{layer}.self_attn" for layer in range(layers)}
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        module, kind = name.rsplit(".", 1)
        tensor = _turned(module, tensor)
        if module in joined:
            parts = tensor.chunk(3)
            renamed |= {f"{joined[module]}.{one}.{kind}": part for one, part in zip(PROJECTIONS, parts, strict=True)}
        else:
            renamed[f"{modules.get(module, module)}.{kind}"] = tensor
    return renamed


def from_gpt_weights(tensors: Tensors, model_type: str, layers: int) -> Tensors:
    """Convert the GPT's weights to a family's: the inverse of `to_gpt_weights`."""
    if model_type not in OUTSIDE:
        return tensors
    modules, rest, renamed = _modules(model_type, layers), dict(tensors), {}
    for layer in range(layers):
        for kind in ("weight", "bias"):
            parts = [rest.pop(f"model.layers.{layer}.self_attn.{one}.{kind}") for one in PROJECTIONS]
            module = f"transformer.h.{layer}.attn.c_attn"
            renamed[f"{module}.{kind}"] = _turned(module, torch.cat(parts))
    for name, tensor in rest.items():
        module, kind = name.rsplit(".", 1)
        module = modules.get(module, module)
        renamed[f"{module}.{kind}"] = _turned(module, tensor)
    return renamed


def _modules(model_type: str, layers: int) -> dict[str, str]:
    """Return our modules -> theirs, except queries, keys and values and modules with equal names."""
    return OUTSIDE[model_type] | {
        f"model.layers.{layer}.{ours}": f"transformer.h.{layer}.{theirs}"
        for layer in range(layers)
        for ours, theirs in IN_LAYER.items()
    }


def _turned(module: str, tensor: torch.Tensor) -> torch.Tensor:
    """Transpose the matrices of their layers, (in, out) <-> (out, in); a tied table must remain the same tensor."""
    is_matrix = module.rsplit(".", 1)[-1].startswith("c_") and tensor.ndim == 2
    return tensor.T.contiguous() if is_matrix else tensor

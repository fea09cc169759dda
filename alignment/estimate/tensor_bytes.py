"""Bytes of each part of training's peak memory, from a model's shape and its batches."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.estimate.shape import RMS_ELEMENTS, Shape

FLOAT = 4
# Bytes of a process without a model: with torch, transformers and datasets loaded, resident on a CPU; on a GPU the CUDA
# context and the libraries' workspaces.
CPU_FRAMEWORK, GPU_FRAMEWORK = int(0.7e9), int(0.8e9)
# TRL's output layer works on tiles of this many tokens and vocabulary entries. Its Triton kernel fills one in place;
# on a CPU its torch operations hold seven in 32 bit at the peak, without gradients four (measured).
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
CPU_TILES, CPU_TILES_FORWARD = 7, 4
MUON = "muon"
# Bytes of optimizer state per parameter, for optimizers whose state does not have the parameter's type.
STATE_BYTES = {"adafactor": 0.1, "sgd": 0, "adamw_torch_8bit": 2, "adamw_torch_4bit": 1}


@dataclass(frozen=True)
class Precision:
    """Bytes per number.

    Attributes:
        weights: of the model as loaded.
        compute: of activations: 2 under autocast to 16 bit, else as the weights.
        quantised: of the layers' matrices on a quantised base, including the quantisation constants. Other weights,
            such as embeddings and output layer, have `weights` bytes.
    """

    weights: int
    compute: int
    quantised: float | None = None

    @property
    def autocast(self) -> bool:
        return self.compute < self.weights


def model_bytes(shape: Shape, precision: Precision) -> int:
    """Bytes of the weights; an adapter's are in 32 bit whatever the base's are."""
    adapter = shape.trainable if 0 < shape.trainable < shape.parameters else 0
    inner = shape.quantisable if precision.quantised else 0
    whole = shape.parameters - adapter - inner
    return whole * precision.weights + adapter * FLOAT + round(inner * (precision.quantised or 0))


def gradient_bytes(shape: Shape, precision: Precision) -> int:
    """Bytes of the gradients."""
    return shape.trainable * _trained_bytes(shape, precision)


def optimizer_bytes(shape: Shape, precision: Precision, optim: str) -> int:
    """Bytes of the optimizer's state.

    Adam's two moments have the type of the weights; other optimizers are known by name. Muon has one momentum for
    hidden matrices, and AdamW's two moments for other parameters.
    """
    if optim in STATE_BYTES:
        return round(shape.trainable * STATE_BYTES[optim])
    if "8bit" in optim:
        return 2 * shape.trainable
    if optim == MUON:
        return (2 * shape.trainable - shape.hidden_matrices) * _trained_bytes(shape, precision)
    moments = 1 if "lion" in optim or "rmsprop" in optim or "adagrad" in optim else 2
    return moments * shape.trainable * _trained_bytes(shape, precision)


def autocast_bytes(shape: Shape, precision: Precision, checkpointing: bool = False) -> int:
    """Bytes of autocast's 16-bit copies of the matrices: of all layers, or of one with checkpointing."""
    copies = shape.matrix_parameters * precision.compute if precision.autocast else 0
    return copies // shape.layers if checkpointing else copies


def layer_bytes_per_token(shape: Shape, precision: Precision, length: int, dense_attention: bool) -> int:
    """Bytes per token that one layer keeps for the backward pass.

    Two norms, which autocast leaves in 32 bit (with a 16-bit copy of the output); queries, keys, values and the output
    of attention, and what their norm and their convolution keep; the inner tensors of the MLP. Blockwise attention
    (SDPA, FlashAttention) keeps no scores; dense attention keeps them twice.
    """
    width = shape.hidden_size
    kept = FLOAT if precision.autocast else precision.compute
    norm = shape.norm_elements * kept + (precision.compute if precision.autocast else 0)
    if precision.autocast and shape.norm_elements < RMS_ELEMENTS:
        norm -= kept  # LayerNorm's output is kept only as the 16-bit copy
    attention = 2 * shape.attention_width + 2 * shape.kv_width
    if shape.qkv_conv:
        attention += shape.attention_width + 2 * shape.kv_width
    # The input of the norm, and its 16-bit copy.
    normed = (shape.attention_width + shape.kv_width) * (kept + precision.compute * precision.autocast)
    mlp = shape.mlp_elements * shape.mlp_width
    scores = shape.heads * length * (2 * FLOAT + 1) if dense_attention else 0
    # Adapters on all linear layers, each with a dropout mask and a copy of its input.
    entering = 5 * width + shape.attention_width + shape.mlp_width if shape.adapter_dropout else 0
    whole = 2 * norm * width + precision.compute * (attention + mlp + entering) + entering + scores
    return whole + normed * shape.qk_norm


def adapter_leftovers(shape: Shape, precision: Precision) -> int:
    """Bytes per token that stay resident on a CPU for the temporary outputs of a layer's adapters.

    Each adapted layer computes its own output, the adapter's, and their sum. Only the sum is kept, but the others
    fragment the memory: 1.5 times all outputs stay resident (measured; a GPU's allocator has no such gaps).
    """
    outputs = 2 * shape.attention_width + 2 * shape.kv_width + 2 * shape.mlp_width + shape.hidden_size
    return outputs * 3 * precision.compute // 2 if shape.has_adapter else 0


def trained_rows_bytes(shape: Shape, precision: Precision, summed: bool = True) -> int:
    """Bytes for trained rows of the embeddings: the table that contains them, and its gradient.

    Args:
        summed: include the 32-bit buffer in which TRL accumulates the output layer's gradient.
    """
    size = 2 * precision.weights + (FLOAT if shape.has_output and summed else 0)
    return shape.vocab_size * shape.hidden_size * size if shape.trains_rows else 0


def activation_bytes(
    shape: Shape,
    precision: Precision,
    sequences: int,
    length: int,
    *,
    checkpointing: bool,
    dense_attention: bool,
    on_gpu: bool = True,
) -> int:
    """Bytes that a forward pass keeps for the backward pass; with checkpointing the inputs of layers, and one layer."""
    layer = layer_bytes(shape, precision, sequences, length, dense_attention=dense_attention, on_gpu=on_gpu)
    last_norm = shape.norm_elements * FLOAT * shape.hidden_size
    stream = FLOAT if precision.autocast else precision.compute  # autocast leaves the residual stream in 32 bit
    inputs = shape.layers * stream * shape.hidden_size
    kept = sequences * length * inputs + layer if checkpointing else shape.layers * layer
    return kept + sequences * length * last_norm


def layer_bytes(
    shape: Shape, precision: Precision, sequences: int, length: int, *, dense_attention: bool, on_gpu: bool = True
) -> int:
    """Bytes that one layer keeps for the backward pass."""
    token = layer_bytes_per_token(shape, precision, length, dense_attention)
    return sequences * length * (token + (0 if on_gpu else adapter_leftovers(shape, precision)))


def whole_logit_bytes(shape: Shape, precision: Precision, positions: int) -> int:
    """Bytes of logits in transformers' loss: as computed, as log-probabilities, and their gradient.

    Under autocast the first are in 16 bit (10 bytes in total, as measured on a GPU).
    """
    return positions * shape.vocab_size * (2 * FLOAT + precision.compute)


def chunked_logit_bytes(shape: Shape, precision: Precision, positions: int, chunk: int, gradients: bool) -> int:
    """Bytes of logits with `loss_chunk_size`.

    A chunk's logits as computed and as log-probabilities, which become the gradient in place; and the output layer's
    whole gradient in 32 bit, in addition to the one that is passed on.
    """
    logits = min(positions, chunk) * shape.vocab_size * (2 * FLOAT + (precision.compute if precision.autocast else 0))
    tables = shape.vocab_size * shape.hidden_size * (FLOAT + precision.weights) if gradients else 0
    return logits + tables


def tiled_logit_bytes(shape: Shape, precision: Precision, positions: int, on_gpu: bool, gradients: bool) -> int:
    """Bytes of logits in TRL's SFT and DPO, which compute them in tiles."""
    tile = min(positions, TILE_TOKENS) * min(shape.vocab_size, TILE_VOCABULARY)
    if on_gpu:
        return tile * precision.compute
    # A tile and weights in 16 bit are copied to 32 bit to accumulate the gradient.
    copies = tile + min(shape.vocab_size, TILE_VOCABULARY) * shape.hidden_size
    copied = FLOAT * copies if gradients and precision.compute < FLOAT else 0
    return tile * FLOAT * (CPU_TILES if gradients else CPU_TILES_FORWARD) + copied


def policy_logit_bytes(shape: Shape, precision: Precision, positions: int) -> int:
    """Bytes of logits in PPO's loss on completions: as computed, divided by the temperature, and their gradient."""
    return positions * shape.vocab_size * (2 * precision.compute + 2 * FLOAT)


def cache_bytes(shape: Shape, precision: Precision, sequences: int, length: int) -> int:
    """Bytes of the keys and values of every position in every layer.

    Rotary positions give the keys the type of the weights; the values have the type of activations.
    """
    return sequences * length * shape.layers * shape.kv_width * (precision.weights + precision.compute)


def forward_bytes(shape: Shape, precision: Precision, sequences: int, length: int) -> int:
    """Bytes that a pass without gradients holds: one layer's activations and the residual stream."""
    inside = shape.mlp_elements * shape.mlp_width + 2 * shape.attention_width + 2 * shape.kv_width
    return sequences * length * (precision.compute * inside // 2 + 3 * FLOAT * shape.hidden_size)


def _trained_bytes(shape: Shape, precision: Precision) -> int:
    return precision.weights if shape.trainable == shape.parameters else FLOAT

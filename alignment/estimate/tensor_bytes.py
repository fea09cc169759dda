"""Bytes at the peak of training, part by part, from a model's shape and the size of its batches."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.estimate.shape import RMS_ELEMENTS, Shape

FLOAT = 4
# What a process holds with torch, transformers and datasets loaded and no model: resident on a CPU; on a GPU the CUDA
# context and the libraries' workspaces.
CPU_FRAMEWORK, GPU_FRAMEWORK = int(0.7e9), int(0.8e9)
# TRL's output layer works on tiles of this many tokens and vocabulary entries. Its Triton kernel fills one in place;
# on a CPU its torch operations hold seven in 32 bit at the peak, without gradients four (measured).
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
CPU_TILES, CPU_TILES_FORWARD = 7, 4
MUON = "muon"
# Bytes of optimizer state a parameter, where it does not follow the parameter's own type.
STATE_BYTES = {"adafactor": 0.1, "sgd": 0, "adamw_torch_8bit": 2, "adamw_torch_4bit": 1}


@dataclass(frozen=True)
class Precision:
    """Bytes a number.

    Attributes:
        weights: of the model as loaded.
        compute: of what layers make: 2 under autocast to 16 bit, else as the weights.
        quantised: of the layers' matrices, where the base is quantised: its constants come on top of the bits. All
            else, such as embeddings and output layer, is as the weights.
    """

    weights: int
    compute: int
    quantised: float | None = None

    @property
    def autocast(self) -> bool:
        return self.compute < self.weights


def model_bytes(shape: Shape, precision: Precision) -> int:
    """Weights; an adapter's are in 32 bit whatever the base's are."""
    adapter = shape.trainable if 0 < shape.trainable < shape.parameters else 0
    inner = shape.quantisable if precision.quantised else 0
    whole = shape.parameters - adapter - inner
    return whole * precision.weights + adapter * FLOAT + round(inner * (precision.quantised or 0))


def gradient_bytes(shape: Shape, precision: Precision) -> int:
    return shape.trainable * _trained_bytes(shape, precision)


def optimizer_bytes(shape: Shape, precision: Precision, optim: str) -> int:
    """Adam's two moments have the type of the weights; other optimizers by their name.

    Muon has one momentum of the hidden matrices, and AdamW's moments of all else.
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
    """The 16-bit copies of the matrices, which live as long as the pass; those of a layer that is computed again, as
    long as the layer."""
    copies = shape.matrix_parameters * precision.compute if precision.autocast else 0
    return copies // shape.layers if checkpointing else copies


def layer_bytes_per_token(shape: Shape, precision: Precision, length: int, dense_attention: bool) -> int:
    """What one layer keeps of a token for the backward pass.

    Two norms, which autocast leaves in 32 bit (with a 16-bit copy of what comes out); queries, keys, values and the
    attention's output, with keys and values repeated for grouped heads as they are kept; the MLP's inside. Attention
    by blocks (SDPA, FlashAttention) keeps nothing of the scores; dense attention keeps them twice.
    """
    width = shape.hidden_size
    kept = FLOAT if precision.autocast else precision.compute
    norm = shape.norm_elements * kept + (precision.compute if precision.autocast else 0)
    if precision.autocast and shape.norm_elements < RMS_ELEMENTS:
        norm -= kept  # LayerNorm's output is kept as the 16-bit copy alone
    attention = 2 * shape.attention_width + 2 * shape.kv_width
    mlp = shape.mlp_elements * shape.mlp_width
    scores = shape.heads * length * (2 * FLOAT + 1) if dense_attention else 0
    # Adapters on all linear layers, each with a mask and a copy of what enters it.
    entering = 5 * width + shape.attention_width + shape.mlp_width if shape.adapter_dropout else 0
    return 2 * norm * width + precision.compute * (attention + mlp + entering) + entering + scores


def adapter_leftovers(shape: Shape, precision: Precision) -> int:
    """What a CPU's allocator does not give again of the adapters' sums in a layer, bytes a token.

    Each adapted layer makes its own output, the adapter's, and their sum. None but the sum is kept, but the others lie
    between what is: half again as much as all outputs stays resident (measured; a GPU's allocator has no such gaps).
    """
    outputs = 2 * shape.attention_width + 2 * shape.kv_width + 2 * shape.mlp_width + shape.hidden_size
    return outputs * 3 * precision.compute // 2 if shape.has_adapter else 0


def trained_rows_bytes(shape: Shape, precision: Precision, summed: bool = True) -> int:
    """Where rows of the embeddings are trained: the table with them in it, and its gradient.

    Args:
        summed: count what TRL sums that of the output layer up in, in 32 bit, for as long as it does.
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
    """What a forward pass keeps for the backward pass; with checkpointing each layer's input, and one layer whole."""
    layer = layer_bytes(shape, precision, sequences, length, dense_attention=dense_attention, on_gpu=on_gpu)
    last_norm = shape.norm_elements * FLOAT * shape.hidden_size
    stream = FLOAT if precision.autocast else precision.compute  # autocast leaves the residual stream in 32 bit
    inputs = shape.layers * stream * shape.hidden_size
    kept = sequences * length * inputs + layer if checkpointing else shape.layers * layer
    return kept + sequences * length * last_norm


def layer_bytes(
    shape: Shape, precision: Precision, sequences: int, length: int, *, dense_attention: bool, on_gpu: bool = True
) -> int:
    """What one layer keeps for the backward pass."""
    token = layer_bytes_per_token(shape, precision, length, dense_attention)
    return sequences * length * (token + (0 if on_gpu else adapter_leftovers(shape, precision)))


def whole_logit_bytes(shape: Shape, precision: Precision, positions: int) -> int:
    """Logits of transformers' own loss: as computed, as log-probabilities, and their gradient.

    Under autocast the first are of 16 bit (10 bytes in all, as measured on a GPU).
    """
    return positions * shape.vocab_size * (2 * FLOAT + precision.compute)


def chunked_logit_bytes(shape: Shape, precision: Precision, positions: int, chunk: int, gradients: bool) -> int:
    """Logits of `loss_chunk_size`: a chunk's, as computed and as log-probabilities, which turn into the gradient in
    place; and the whole gradient of the output layer in 32 bit, beside the one that is passed on."""
    logits = min(positions, chunk) * shape.vocab_size * (2 * FLOAT + (precision.compute if precision.autocast else 0))
    tables = shape.vocab_size * shape.hidden_size * (FLOAT + precision.weights) if gradients else 0
    return logits + tables


def tiled_logit_bytes(shape: Shape, precision: Precision, positions: int, on_gpu: bool, gradients: bool) -> int:
    """Logits of TRL's SFT and DPO, which never exist as a whole."""
    tile = min(positions, TILE_TOKENS) * min(shape.vocab_size, TILE_VOCABULARY)
    if on_gpu:
        return tile * precision.compute
    # Of 16 bit, tile and weights are copied to 32 bit for the gradient's sum.
    copies = tile + min(shape.vocab_size, TILE_VOCABULARY) * shape.hidden_size
    copied = FLOAT * copies if gradients and precision.compute < FLOAT else 0
    return tile * FLOAT * (CPU_TILES if gradients else CPU_TILES_FORWARD) + copied


def policy_logit_bytes(shape: Shape, precision: Precision, positions: int) -> int:
    """Logits of PPO's loss on the completion tokens: as computed, divided by the temperature, and their gradient."""
    return positions * shape.vocab_size * (2 * precision.compute + 2 * FLOAT)


def cache_bytes(shape: Shape, precision: Precision, sequences: int, length: int) -> int:
    """Keys and values of every position in every layer.

    Rotary positions turn the keys in the type of the weights; the values stay as computed.
    """
    return sequences * length * shape.layers * shape.kv_width * (precision.weights + precision.compute)


def forward_bytes(shape: Shape, precision: Precision, sequences: int, length: int) -> int:
    """What a pass without gradients holds at a time: one layer's insides and the residual stream."""
    inside = shape.mlp_elements * shape.mlp_width + 2 * shape.attention_width + 2 * shape.kv_width
    return sequences * length * (precision.compute * inside // 2 + 3 * FLOAT * shape.hidden_size)


def _trained_bytes(shape: Shape, precision: Precision) -> int:
    return precision.weights if shape.trainable == shape.parameters else FLOAT

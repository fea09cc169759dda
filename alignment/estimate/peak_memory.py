"""The peak memory of a stage: what is always held, plus the phase that needs most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from alignment.estimate import tensor_bytes
from alignment.estimate.models import Models
from alignment.estimate.shape import Shape
from alignment.estimate.tensor_bytes import Precision
from alignment.estimate.workload import Batch
from alignment.stages import COMPLETIONS, NONE, STAGES, WHOLE


@dataclass(frozen=True)
class Run:
    """Everything that the memory of a stage depends on."""

    stage: str
    models: Models
    batch: Batch
    precision: Precision
    optim: str
    checkpointing: bool
    dense_attention: bool
    on_gpu: bool
    loss_chunk: int | None = None  # tokens per chunk of logits in pretraining; None: all of a batch


def memory_parts(run: Run) -> dict[str, int]:
    """Part -> bytes at the peak: what is always held, plus the phase that needs most."""
    models, precision = run.models, run.precision
    parts = {
        "framework": tensor_bytes.GPU_FRAMEWORK if run.on_gpu else tensor_bytes.CPU_FRAMEWORK,
        "weights": tensor_bytes.model_bytes(models.policy, precision),
        "optimizer": tensor_bytes.optimizer_bytes(models.policy, precision, run.optim),
    }
    parts |= {name: parameters * precision.weights for name, parameters in models.frozen.items()}
    if models.critic is not None:
        parts["critic"] = _trained_bytes(models.critic, run) + tensor_bytes.model_bytes(models.critic, precision)
    elif models.critic_mode == "lora":
        parts["critic"] = _trained_bytes(models.policy, run) + tensor_bytes.FLOAT * models.policy.trainable
    phases = [*_training(run), _evaluation(run)]
    if STAGES[run.stage].samples:
        phases.append(_sampling(run))
    return parts | max(phases, key=lambda phase: sum(phase.values()))


def _trained_bytes(shape: Shape, run: Run) -> int:
    return tensor_bytes.gradient_bytes(shape, run.precision) + tensor_bytes.optimizer_bytes(
        shape, run.precision, run.optim
    )


def _training(run: Run) -> Iterator[dict[str, int]]:
    """Yield the phases of a forward and backward pass on a micro-batch.

    With checkpointing, the output layer's memory is free before the first layer is recomputed: two phases, neither of
    which holds everything. (A CPU's allocator does not reuse the memory of the first.)
    """
    batch, precision, policy = run.batch, run.precision, run.models.policy
    sequences = batch.micro * batch.sides
    options = {"dense_attention": run.dense_attention, "on_gpu": run.on_gpu}
    trunks = [policy, run.models.critic] if run.models.critic is not None else [policy]
    activations = [
        tensor_bytes.activation_bytes(
            one, precision, sequences, batch.length, checkpointing=run.checkpointing, **options
        )
        for one in trunks
    ]
    whole = {
        "gradients": tensor_bytes.gradient_bytes(policy, precision),
        "trained rows of embeddings": tensor_bytes.trained_rows_bytes(policy, precision),
        "16-bit copies": sum(tensor_bytes.autocast_bytes(one, precision, run.checkpointing) for one in trunks),
        "activations": sum(activations),
        "logits": _logits(run, sequences, gradients=True),
    }
    if not (run.checkpointing and run.on_gpu):
        yield whole
        return
    layers = [tensor_bytes.layer_bytes(one, precision, sequences, batch.length, **options) for one in trunks]
    yield whole | {"activations": sum(activations) - sum(layers)}
    yield whole | {
        "trained rows of embeddings": tensor_bytes.trained_rows_bytes(policy, precision, summed=False),
        "logits": 0,
    }


def _evaluation(run: Run) -> dict[str, int]:
    """A pass without gradients, as in evaluation and in the scoring of PPO's and GRPO's completions."""
    batch, precision, policy = run.batch, run.precision, run.models.policy
    sequences = batch.evaluated * batch.sides
    return {
        "16-bit copies": tensor_bytes.autocast_bytes(policy, precision),
        "pass without gradients": tensor_bytes.forward_bytes(policy, precision, sequences, batch.length),
        "logits without gradients": _logits(run, sequences, gradients=False),
    }


def _logits(run: Run, sequences: int, gradients: bool) -> int:
    """Bytes of the logits: of sampled completions in PPO and GRPO, else of whole sequences."""
    precision, policy = run.precision, run.models.policy
    positions = sequences * (run.batch.completion or run.batch.length)
    logits = STAGES[run.stage].logits
    if logits == NONE:
        return 0
    if run.loss_chunk:
        return tensor_bytes.chunked_logit_bytes(policy, precision, positions, run.loss_chunk, gradients)
    if logits == COMPLETIONS and gradients:
        return tensor_bytes.policy_logit_bytes(policy, precision, positions)
    if logits in (WHOLE, COMPLETIONS):
        return tensor_bytes.whole_logit_bytes(policy, precision, positions)
    return tensor_bytes.tiled_logit_bytes(policy, precision, positions, run.on_gpu, gradients)


def _sampling(run: Run) -> dict[str, int]:
    """Sampling a rollout: the prompts' pass, and the KV cache of sequences of full length."""
    batch, precision, policy = run.batch, run.precision, run.models.policy
    prompt = batch.length - batch.completion
    return {
        "16-bit copies": tensor_bytes.autocast_bytes(policy, precision),
        "KV cache": tensor_bytes.cache_bytes(policy, precision, batch.rollout, batch.length),
        "prompts' pass": tensor_bytes.forward_bytes(policy, precision, batch.rollout, prompt),
    }

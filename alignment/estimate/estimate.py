"""Predict the tokens, steps, time and memory of a stage before training, without allocating weights.

On a CPU the memory is that of the whole process, with the libraries. Measured errors, on two cores: memory within 12%
for benchmarks/memory_plan.py (264M, LoRA and full); for models of a few million parameters, whose freed tensors stay in
the process, up to 0.3 GB too low (recipes/tiny/sft.yaml: 1.1 GB, measured 1.4). The predicted time is 0.6 to 1.7 of
the measured time of recipes/tiny; the highest ratio is PPO's, whose completions are assumed to have full length. Memory
on a GPU: docs/measurements.md; time on a GPU and quantised bases were not measured. Mixtures of experts keep about a
third more activations than predicted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from alignment.estimate import compute
from alignment.estimate.compute import Device
from alignment.estimate.fit import FITS, Change, fixes, largest_batch, largest_model, least, verdict
from alignment.estimate.models import PLAIN_NF4_BYTES, is_dense, models_of, new_adapter, precision_of
from alignment.estimate.peak_memory import Run, memory_parts
from alignment.estimate.tensor_bytes import MUON, Precision
from alignment.estimate.workload import Keys, TokenStatistics, batch_of, steps_of
from alignment.models.quantization import missing_for_quantization
from alignment.stages import STAGES

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedConfig

BFLOAT16 = Precision(2, 2)


@dataclass(frozen=True)
class Estimate:
    """The predicted cost of a stage.

    Attributes:
        tokens: trained on in total, without padding; for PPO and GRPO prompts and completions of full length.
        steps: optimizer steps.
        batch_sequences: sequences per optimizer step: packed rows, conversations, both sides of pairs, completions.
        batch_tokens: tokens per optimizer step, without padding.
        seconds: None if the device's speed is not known.
        memory: part -> bytes at the peak.
        device: the device that memory and time are predicted for.
        parameters: of the trained model, including frozen ones.
        hidden_parameters: of its matrices outside the embeddings and the output layer.
        trainable: parameters that are updated; without PPO's critic.
        least: bytes at the peak with a micro-batch of 1 and activation checkpointing.
        largest_batch: the largest micro-batch that fits with all other settings unchanged; 0 if none does.
        largest_model: parameters of the largest model that fits with a micro-batch of 1 and activation checkpointing.
        fixes: recipe changes that reduce memory, if it is short.
    """

    stage: str
    tokens: int
    steps: int
    batch_sequences: int
    batch_tokens: int
    seconds: float | None
    memory: dict[str, int]
    device: Device
    parameters: int
    hidden_parameters: int
    trainable: int
    least: int
    largest_batch: int
    largest_model: int
    fixes: list[str]

    @property
    def total_memory(self) -> int:
        """Bytes at the peak."""
        return sum(self.memory.values())

    @property
    def verdict(self) -> str:
        """`fits`, `tight` or `does not fit`."""
        return verdict(self.total_memory, self.device)


def estimate(
    stage: str,
    configs: tuple[Any, ...],
    model_config: PreTrainedConfig,
    rows: TokenStatistics,
    device: Device,
    *,
    adapter: PeftConfig | None = None,
    reward_config: PreTrainedConfig | None = None,
    reward_adapter: PeftConfig | None = None,
) -> Estimate:
    """Predict the cost of a stage on a device.

    Args:
        stage: pretrain, sft, reward, dpo, ppo or grpo.
        configs: the stage's dataclasses, as `StageSpec.configs` builds them.
        model_config: of the trained model; for an adapter, of its base.
        adapter: the parent's adapter, if the parent is one (a new adapter is read from the configs).
        reward_config: of the reward model; for an adapter, of its base; default: the policy's, with its adapter.
        reward_adapter: the reward model's adapter, if it is one.
    """
    keys = Keys(configs)
    if reward_config is None:
        reward_config, reward_adapter = model_config, adapter
    own = adapter or (new_adapter(stage, keys) if keys.use_peft else None)
    reference = adapter is not None or own is None  # the base itself is the reference of a new adapter
    reward = (reward_config, reward_adapter) if keys.reward_model_path else None
    models = models_of(stage, keys, (model_config, own), reward, reference)
    batch = batch_of(stage, keys, model_config, rows)
    run = Run(
        stage=stage,
        models=models,
        batch=batch,
        precision=precision_of(keys, model_config),
        optim=MUON if keys.muon else str(getattr(keys.optim, "value", keys.optim)),
        checkpointing=bool(keys.activation_checkpointing),
        dense_attention=is_dense(stage, keys, models.policy, device),
        on_gpu=device.on_gpu,
        loss_chunk=keys.loss_chunk_size,
    )
    steps, trained_rows = steps_of(stage, keys, rows, batch)
    sequences = batch.micro * batch.accumulation * batch.sides
    parts = memory_parts(run)
    short = verdict(sum(parts.values()), device) != FITS
    cheaper = _cheaper(run, keys, model_config, reward, device)
    return Estimate(
        stage=stage,
        tokens=round(trained_rows * batch.sides * batch.mean),
        steps=steps,
        batch_sequences=sequences,
        batch_tokens=round(sequences * batch.mean),
        seconds=_seconds(run, keys, trained_rows, device),
        memory=parts,
        device=device,
        parameters=models.policy.parameters,
        hidden_parameters=models.policy.matrix_parameters - models.policy.vocab_size * models.policy.hidden_size,
        trainable=models.policy.trainable,
        least=least(run),
        largest_batch=largest_batch(run, device),
        largest_model=largest_model(run, device),
        fixes=fixes(run, device, cheaper) if short else [],
    )


def _cheaper(run: Run, keys: Keys, config: PreTrainedConfig, reward: tuple | None, device: Device) -> Iterator[Change]:
    """Ways to train the same model in less memory: LoRA, then on a base in 16 bit, then in 4 bit if available."""
    if STAGES[run.stage].data == "text":  # pretraining has no adapters
        return
    changed = []
    if not run.models.policy.has_adapter:
        changed.append("use_peft: true")
        run = replace(run, models=models_of(run.stage, keys, (config, new_adapter(run.stage, keys)), reward, False))
        yield ", ".join(changed), run
    if run.precision.quantised is None and run.precision.weights > BFLOAT16.weights:
        changed.append("dtype: bfloat16")
        run = replace(run, precision=BFLOAT16)
        yield ", ".join(changed), run
    if run.precision.quantised is None and device.on_gpu and not missing_for_quantization():
        run = replace(run, precision=replace(run.precision, quantised=PLAIN_NF4_BYTES))
        yield ", ".join([*changed, "load_in_4bit: true"]), run


def _seconds(run: Run, keys: Keys, trained_rows: float, device: Device) -> float | None:
    """Seconds of a stage: the arithmetic of all passes, and the time to launch them."""
    batch, models = run.batch, run.models
    tokens = trained_rows * batch.sides * batch.padded
    flops, passes = _training_work(run, tokens, trained_rows)
    forward = compute.forward_flops(models.policy, batch.padded)
    extra = STAGES[run.stage].extra_passes
    flops, passes = flops + extra * tokens * forward, passes + extra * trained_rows / batch.micro * models.policy.layers
    if STAGES[run.stage].samples:
        flops, passes = flops * keys.num_iterations, passes * keys.num_iterations
        rollouts = trained_rows / batch.rollout
        # The policy, PPO's critic, and the frozen models.
        judged = 1 + (models.critic_mode in ("separate", "lora")) + len(models.frozen)
        flops += tokens * forward * (judged + compute.SAMPLING_SLOWDOWN * batch.completion / batch.padded)
        chunks = batch.rollout / batch.evaluated
        passes += rollouts * models.policy.layers * (batch.completion + judged * chunks)
    return compute.seconds(flops, passes, device)


def _training_work(run: Run, tokens: float, rows: float) -> tuple[float, float]:
    """FLOPs and layer passes of training once on `rows` rows of `tokens` tokens, including PPO's critic."""
    batch, policy = run.batch, run.models.policy
    flops = tokens * compute.training_flops(policy, batch.padded, run.checkpointing)
    passes = rows / batch.micro * policy.layers * (3 + run.checkpointing)
    mode = run.models.critic_mode
    doubled = 2 if mode in ("separate", "lora") else 1
    return flops * doubled, passes * doubled

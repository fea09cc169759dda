"""What a stage will take: tokens, steps, time and memory; told before any training, without making weights.

How far off it is, by what was measured on two cores: memory within 6% in recipes/tiny (1 M parameters) and in full
fine-tuning of 60 M (2026-11-22), within 10% in what benchmarks/memory_plan.py has (264 M, LoRA and full); time 0.6 to
1.7 of what recipes/tiny took, PPO's the longest, as it is told for completions of full length. Memory on a GPU:
docs/performance.md; time was not measured there, nor a quantised base. Mixtures of experts keep more activations than
is counted here (about a third).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from alignment.check import memory, speed
from alignment.check.memory import Precision
from alignment.check.shape import Shape, shape_of
from alignment.check.speed import Device, this_device

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedConfig

__all__ = ["Device", "Estimate", "TokenStatistics", "describe", "estimate", "this_device"]

FITS, TIGHT, TOO_LARGE = "fits", "tight", "does not fit"
# Below this share of the device's memory the estimate's own error does no harm.
SAFE_SHARE = 0.8
LARGEST_BATCH = 1024  # none larger is looked for
SIDES = {"reward": 2, "dpo": 2}  # sequences of a row
# A number of 4 bit with its share of the constants of a block of 64, which double quantisation keeps in 8 bit.
NF4_BYTES, INT8_BYTES = 0.516, 1.0
TYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class TokenStatistics:
    """Lengths of the rows that a stage trains on, after filters and limits.

    Attributes:
        rows: documents, conversations, pairs or prompts.
        mean_tokens: of a document, of a conversation, of a prompt with one reply (mean over both), or of a prompt.
        max_tokens: the longest likewise.
    """

    rows: int
    mean_tokens: float
    max_tokens: int


@dataclass(frozen=True)
class Estimate:
    """What a stage will take.

    Attributes:
        tokens: trained on in all, padding aside; of PPO prompts and completions, if all are of the full length.
        steps: optimizer steps.
        batch_sequences: sequences an optimizer step: packed rows, conversations, both sides of pairs, completions.
        batch_tokens: tokens an optimizer step, padding aside.
        seconds: about so many, or None where the device's speed is not known.
        memory: bytes at the peak, by part.
        device: with its memory.
        parameters: of the model that is trained, all of them.
        trainable: those that learn; with PPO without the critic's.
        mends: what to change where memory is short.
        largest_batch: the largest micro-batch that fits, all else being as it is; 0 where none does.
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
    trainable: int
    mends: list[str] = field(default_factory=list)
    largest_batch: int = 0

    @property
    def total_memory(self) -> int:
        """Bytes at the peak."""
        return sum(self.memory.values())

    @property
    def verdict(self) -> str:
        """`fits`, `tight` or `does not fit`."""
        return verdict(self.total_memory, self.device)


@dataclass(frozen=True)
class Models:
    """The models of a stage.

    Attributes:
        policy: the model that is trained.
        frozen: name -> parameters, of the models beside it that do not learn.
        critic: PPO's, where it is a model of its own.
        critic_mode: PPO's, as resolved.
    """

    policy: Shape
    frozen: dict[str, int] = field(default_factory=dict)
    critic: Shape | None = None
    critic_mode: str | None = None


@dataclass(frozen=True)
class Batch:
    """What a stage works on at a time.

    Attributes:
        micro: rows of a forward and backward pass.
        accumulation: of these in an optimizer step.
        sides: sequences of a row.
        length: tokens of the longest sequence.
        mean: tokens of a sequence on average, padding aside.
        padded: tokens of a sequence on average, with what its batch pads it to.
        evaluated: rows of a pass without gradients.
        completion: of `length`, what PPO samples at most.
        rollout: completions sampled at a time.
    """

    micro: int
    accumulation: int
    sides: int
    length: int
    mean: float
    padded: float
    evaluated: int
    completion: int = 0
    rollout: int = 0


@dataclass(frozen=True)
class Run:
    """All that memory depends on."""

    stage: str
    models: Models
    batch: Batch
    precision: Precision
    optim: str
    checkpointing: bool
    dense_attention: bool
    on_gpu: bool
    loss_chunk: int | None = None  # tokens whose logits pretraining holds at a time; None: a batch's


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
    """What a stage will take on a device.

    Args:
        stage: pretrain, sft, reward, dpo or ppo.
        configs: the stage's dataclasses, as `StageSpec.configs` builds them.
        model_config: of the model that is trained; of an adapter its base's.
        adapter: the parent's own adapter, where it is one (a new adapter is read from the configs).
        reward_config: of PPO's reward model, of an adapter its base's; default: as the policy's, adapter included.
        reward_adapter: the reward model's own adapter, where it is one.
    """
    keys = Keys(configs)
    if reward_config is None:
        reward_config, reward_adapter = model_config, adapter
    own = adapter or _new_adapter(stage, keys)
    reference = adapter is not None or own is None  # of a new adapter the base itself is the reference
    reward = (reward_config, reward_adapter) if keys.reward_model_path else None
    models = _models(stage, keys, (model_config, own), reward, reference)
    batch = _batch(stage, keys, model_config, rows)
    run = Run(
        stage=stage,
        models=models,
        batch=batch,
        precision=_precision(keys, model_config),
        optim=str(getattr(keys.optim, "value", keys.optim)),
        checkpointing=bool(keys.activation_checkpointing),
        dense_attention=_is_dense(stage, keys, models.policy, device),
        on_gpu=device.on_gpu,
        loss_chunk=keys.loss_chunk_size,
    )
    steps, trained_rows = _steps(stage, keys, rows, batch)
    sequences = batch.micro * batch.accumulation * batch.sides
    parts = memory_parts(run)
    short = verdict(sum(parts.values()), device) != FITS
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
        trainable=models.policy.trainable,
        mends=_mends(run, device) if short else [],
        largest_batch=_largest_batch(run, device),
    )


def verdict(total: int, device: Device) -> str:
    if total <= SAFE_SHARE * device.memory:
        return FITS
    return TIGHT if total <= device.memory else TOO_LARGE


class Keys:
    """The recipe's keys, whichever dataclass of the stage has them; None for a key that the stage does not have."""

    def __init__(self, configs: tuple[Any, ...]):
        self._values = {entry.name: getattr(config, entry.name) for config in configs for entry in fields(config)}

    def __getattr__(self, name: str) -> Any:
        return self._values.get(name)


# The models ---------------------------------------------------------------------------------------------------------


def _new_adapter(stage: str, keys: Keys) -> PeftConfig | None:
    """The adapter that a stage adds, with a row of the embeddings for those of the template's tokens, which are few."""
    from peft import LoraConfig

    if not keys.use_peft:
        return None
    return LoraConfig(
        r=keys.lora_r,
        lora_dropout=keys.lora_dropout,
        target_modules=keys.lora_target_modules or "all-linear",
        modules_to_save=["score"] if stage == "reward" else keys.lora_modules_to_save,
        use_dora=keys.use_dora,
        trainable_token_indices=None if stage == "reward" else [0],
        task_type="SEQ_CLS" if stage == "reward" else "CAUSAL_LM",
    )


def _models(
    stage: str,
    keys: Keys,
    policy: tuple[PreTrainedConfig, PeftConfig | None],
    reward: tuple[PreTrainedConfig, PeftConfig | None] | None,
    has_reference: bool,
) -> Models:
    """Which models a stage holds; for PPO as docs/ppo.md says. A base under several adapters is held once."""
    kind = "sequence-classification" if stage == "reward" else "causal-lm"
    trained, adapter = shape_of(*policy, kind), policy[1]
    if stage not in ("dpo", "ppo"):
        return Models(trained)
    # Of a policy that is an adapter the reference is another adapter.
    copy_size = trained.trainable if adapter is not None else trained.parameters
    frozen = {"reference model": copy_size} if has_reference and (stage == "dpo" or keys.beta > 0) else {}
    if stage == "dpo":
        return Models(trained, frozen)
    shared = reward is not None and reward[1] is not None and adapter is not None
    if reward is not None:
        judge = shape_of(*reward, "sequence-classification")
        frozen["reward model"] = judge.trainable if shared else judge.parameters
    mode = keys.critic_mode or ("lora" if adapter is not None else "separate")
    critic = None
    if mode == "separate":
        start = policy if reward is None or shared else reward
        critic = shape_of(*start, "sequence-classification")
    return Models(trained, frozen, critic, mode)


def _precision(keys: Keys, config: PreTrainedConfig) -> Precision:
    dtype = keys.dtype or "float32"
    if dtype == "auto":
        dtype = str(config.dtype or "float32").removeprefix("torch.")
    weights = TYPE_BYTES[dtype]
    quantised = NF4_BYTES if keys.load_in_4bit else INT8_BYTES if keys.load_in_8bit else None
    return Precision(weights, 2 if keys.bf16 or keys.fp16 else weights, quantised)


def _is_dense(stage: str, keys: Keys, shape: Shape, device: Device) -> bool:
    """Whether attention keeps its scores: eager attention does, and on a CPU any with dropout (PPO has none)."""
    has_dropout = shape.dropout > 0 and stage != "ppo"
    return keys.attn_implementation == "eager" or (has_dropout and not device.on_gpu)


# Batches and steps --------------------------------------------------------------------------------------------------


def _batch(stage: str, keys: Keys, config: PreTrainedConfig, rows: TokenStatistics) -> Batch:
    context = getattr(config.get_text_config(), "max_position_embeddings", None) or rows.max_tokens
    limit = keys.max_length or (context if stage == "pretrain" else rows.max_tokens)
    longest = min(rows.max_tokens, limit)
    mean = min(rows.mean_tokens, longest)
    padded = (mean + longest) / 2
    if keys.per_device_train_batch_size == 1 or keys.train_sampling_strategy == "group_by_length":
        padded = mean
    if is_packed(stage, keys):
        longest, padded = limit, limit
        mean = min(limit, rows.rows * rows.mean_tokens / packed_rows(rows, limit))
    batch = Batch(
        micro=keys.per_device_train_batch_size,
        accumulation=keys.gradient_accumulation_steps,
        sides=SIDES.get(stage, 1),
        length=longest,
        mean=mean,
        padded=padded,
        evaluated=keys.per_device_eval_batch_size,
    )
    if stage != "ppo":
        return batch
    completion = keys.max_completion_length
    prompt = min(rows.max_tokens, context - completion)  # the stage leaves longer prompts out
    mean = min(rows.mean_tokens, prompt)
    return replace(
        batch,
        length=prompt + completion,
        mean=mean + completion,
        padded=(mean + prompt) / 2 + completion,
        completion=completion,
        rollout=keys.per_device_train_batch_size * keys.steps_per_generation,
    )


def is_packed(stage: str, keys: Keys) -> bool:
    return stage == "pretrain" or (stage == "sft" and bool(keys.packing))


def packed_rows(rows: TokenStatistics, length: int) -> int:
    """Rows of one length that hold all tokens, were they full; best-fit packing leaves a few percent empty."""
    return max(1, math.ceil(rows.rows * rows.mean_tokens / length))


def _steps(stage: str, keys: Keys, rows: TokenStatistics, batch: Batch) -> tuple[int, float]:
    """Optimizer steps as transformers' Trainer counts them, and the rows that are trained on, repeats included.

    Of PPO the rows are the completions sampled. SFT's replay is taken to be as long as the conversations.
    """
    count = rows.rows
    if stage == "sft" and keys.replay_dataset_name:
        count += round(keys.replay_ratio * count)
    if is_packed(stage, keys):
        count = packed_rows(rows, batch.length)
    if stage == "ppo":
        per_rollout = keys.steps_per_generation * keys.num_iterations  # micro-batches
        micro_batches = math.ceil(count / batch.rollout) * per_rollout
    elif keys.dataloader_drop_last:
        micro_batches = count // batch.micro
    else:
        micro_batches = math.ceil(count / batch.micro)
    per_epoch = max(1, math.ceil(micro_batches / batch.accumulation))
    steps = keys.max_steps if keys.max_steps > 0 else math.ceil(keys.num_train_epochs * per_epoch)
    if stage == "ppo":
        return steps, math.ceil(steps * batch.accumulation / per_rollout) * batch.rollout
    return steps, min(steps * batch.micro * batch.accumulation, count * steps / per_epoch)


# Memory -------------------------------------------------------------------------------------------------------------


def memory_parts(run: Run) -> dict[str, int]:
    """Bytes at the peak by part: what is always there, and the phase that takes the most."""
    models, precision = run.models, run.precision
    parts = {
        "framework": memory.GPU_FRAMEWORK if run.on_gpu else memory.CPU_FRAMEWORK,
        "weights": memory.model_bytes(models.policy, precision),
        "optimizer": memory.optimizer_bytes(models.policy, precision, run.optim),
    }
    parts |= {name: parameters * precision.weights for name, parameters in models.frozen.items()}
    if models.critic_mode == "separate":
        parts["critic"] = _trained_bytes(models.critic, run) + memory.model_bytes(models.critic, precision)
    elif models.critic_mode == "lora":
        parts["critic"] = _trained_bytes(models.policy, run) + memory.FLOAT * models.policy.trainable
    phases = [_training(run), _evaluation(run)]
    if run.stage == "ppo":
        phases.append(_sampling(run))
    return parts | max(phases, key=lambda phase: sum(phase.values()))


def _trained_bytes(shape: Shape, run: Run) -> int:
    return memory.gradient_bytes(shape, run.precision) + memory.optimizer_bytes(shape, run.precision, run.optim)


def _training(run: Run) -> dict[str, int]:
    """A forward and backward pass on a micro-batch."""
    batch, precision, policy = run.batch, run.precision, run.models.policy
    sequences = batch.micro * batch.sides
    options = {"checkpointing": run.checkpointing, "dense_attention": run.dense_attention, "on_gpu": run.on_gpu}
    trunks = [policy, run.models.critic] if run.models.critic is not None else [policy]
    activations = [memory.activation_bytes(one, precision, sequences, batch.length, **options) for one in trunks]
    positions = sequences * (batch.completion or batch.length)
    if run.stage == "ppo":
        logits = memory.policy_logit_bytes(policy, precision, positions)
    elif run.stage == "pretrain":
        logits = memory.whole_logit_bytes(policy, precision, min(positions, run.loss_chunk or positions))
    else:
        logits = (
            0
            if run.stage == "reward"
            else memory.tiled_logit_bytes(policy, precision, positions, run.on_gpu, gradients=True)
        )
    return {
        "gradients": memory.gradient_bytes(policy, precision),
        "trained rows of embeddings": memory.trained_rows_bytes(policy),
        "16-bit copies": sum(memory.autocast_bytes(one, precision, run.checkpointing) for one in trunks),
        "activations": sum(activations),
        "logits": logits,
    }


def _evaluation(run: Run) -> dict[str, int]:
    """A pass without gradients; PPO scores its completions so."""
    batch, precision, policy = run.batch, run.precision, run.models.policy
    sequences = batch.evaluated * batch.sides
    positions = sequences * (batch.completion or batch.length)
    if run.stage in ("pretrain", "ppo"):
        held = min(positions, run.loss_chunk or positions)
        logits = held * policy.vocab_size * (precision.compute + 2 * memory.FLOAT)
    else:
        logits = (
            0
            if run.stage == "reward"
            else memory.tiled_logit_bytes(policy, precision, positions, run.on_gpu, gradients=False)
        )
    return {
        "16-bit copies": memory.autocast_bytes(policy, precision),
        "pass without gradients": memory.forward_bytes(policy, precision, sequences, batch.length),
        "logits without gradients": logits,
    }


def _sampling(run: Run) -> dict[str, int]:
    """A whole rollout at a time: the prompts' pass, and the cache of the longest sequences."""
    batch, precision, policy = run.batch, run.precision, run.models.policy
    prompt = batch.length - batch.completion
    return {
        "16-bit copies": memory.autocast_bytes(policy, precision),
        "KV cache": memory.cache_bytes(policy, precision, batch.rollout, batch.length),
        "prompts' pass": memory.forward_bytes(policy, precision, batch.rollout, prompt),
    }


def _mends(run: Run, device: Device) -> list[str]:
    """The gentlest changes of the recipe after which it fits, each by itself, then together; what else there is."""
    smaller = _smaller_batches(run)
    checkpointed = [
        (", ".join(filter(None, [change, "activation_checkpointing: true"])), replace(one, checkpointing=True))
        for change, one in [("", run), *smaller]
        if not run.checkpointing
    ]
    mends = []
    for candidates in (smaller, checkpointed):
        fitting = [change for change, one in candidates if verdict(sum(memory_parts(one).values()), device) == FITS]
        mends += fitting[:1]
    if not mends:
        mends.append("fewer steps_per_generation: a smaller rollout" if run.stage == "ppo" else "a shorter max_length")
    if run.models.policy.trainable == run.models.policy.parameters and run.stage != "pretrain":
        mends.append("use_peft: true (LoRA: no gradients and moments of the whole model)")
    return mends


def _largest_batch(run: Run, device: Device) -> int:
    """By halves: memory grows with the micro-batch."""

    def fits(micro: int) -> bool:
        tried = replace(run, batch=replace(run.batch, micro=micro))
        return verdict(sum(memory_parts(tried).values()), device) == FITS

    low, high = 0, LARGEST_BATCH + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _smaller_batches(run: Run) -> list[tuple[str, Run]]:
    """Halved micro-batches with the optimizer's batch, and PPO's rollout, as they are."""
    changed, found, batch = [], [], run.batch
    while batch.micro % 2 == 0 or batch.evaluated > 1:
        halve = batch.micro % 2 == 0
        batch = replace(
            batch,
            micro=batch.micro // 2 if halve else batch.micro,
            accumulation=batch.accumulation * 2 if halve else batch.accumulation,
            evaluated=max(1, batch.evaluated // 2),
        )
        changed = [f"per_device_train_batch_size: {batch.micro}"]
        changed.append(f"gradient_accumulation_steps: {batch.accumulation}")
        if run.stage == "ppo":
            changed.append(f"steps_per_generation: {batch.rollout // batch.micro}")
        changed.append(f"per_device_eval_batch_size: {batch.evaluated}")
        found.append((", ".join(changed), replace(run, batch=batch)))
    return found


# Time ---------------------------------------------------------------------------------------------------------------


def _seconds(run: Run, keys: Keys, trained_rows: float, device: Device) -> float | None:
    """Arithmetic of all passes, and what the framework takes to issue them."""
    batch, models = run.batch, run.models
    tokens = trained_rows * batch.sides * batch.padded
    flops, passes = _training_work(run, tokens, trained_rows)
    forward = speed.forward_flops(models.policy, batch.padded)
    if run.stage == "dpo":
        flops, passes = flops + tokens * forward, passes + trained_rows / batch.micro * models.policy.layers
    if run.stage == "ppo":
        flops, passes = flops * keys.num_iterations, passes * keys.num_iterations
        rollouts = trained_rows / batch.rollout
        judged = 2 + len(models.frozen) - (models.critic_mode == "shared_head")  # policy, critic, and the frozen
        flops += tokens * forward * (judged + speed.SAMPLING_SLOWDOWN * batch.completion / batch.padded)
        chunks = batch.rollout / batch.evaluated
        passes += rollouts * models.policy.layers * (batch.completion + judged * chunks)
    return speed.seconds(flops, passes, device)


def _training_work(run: Run, tokens: float, rows: float) -> tuple[float, float]:
    """Operations, and passes through a layer, of training once on some rows; PPO's critic included."""
    batch, policy = run.batch, run.models.policy
    flops = tokens * speed.training_flops(policy, batch.padded, run.checkpointing)
    passes = rows / batch.micro * policy.layers * (3 + run.checkpointing)
    mode = run.models.critic_mode
    doubled = 2 if mode in ("separate", "lora") else 1
    return flops * doubled, passes * doubled


# Words --------------------------------------------------------------------------------------------------------------


def describe(estimate: Estimate) -> str:
    """A few short lines for people."""
    found = estimate
    learning = f"{_short(found.parameters)} parameters"
    if found.trainable < found.parameters:
        learning += f", {_short(found.trainable)} of them trained ({found.trainable / found.parameters:.1%})"
    parts = sorted(found.memory.items(), key=lambda part: -part[1])
    shown = [f"{name} {_gigabytes(size)}" for name, size in parts if size >= 0.02 * found.total_memory]
    total, device = _gigabytes(found.total_memory), _gigabytes(found.device.memory)
    lines = [
        ("model", learning),
        ("steps", f"{found.steps:,} of {found.batch_sequences:,} sequences, about {_short(found.batch_tokens)} tokens"),
        ("tokens", f"about {_short(found.tokens)}"),
        ("memory", f"about {total} of {device} GB: {found.verdict}{_batch_words(found.largest_batch)}"),
        ("", ", ".join(shown)),
        *(("mend", mend) for mend in found.mends),
    ]
    if found.seconds is not None:
        lines.insert(3, ("time", f"about {_duration(found.seconds)} on {found.device.name}"))
    return "\n".join(f"  {label:8}{text}" for label, text in lines)


def _batch_words(largest: int) -> str:
    more = " or more" if largest == LARGEST_BATCH else ""
    return f", with a micro-batch of up to {largest}{more}" if largest else ""


def _short(number: float) -> str:
    """124 M for 124,439,808."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f}" if size >= 1e8 else f"{size / 1e9:.2f}"


def _duration(seconds: float) -> str:
    """One or two figures: an estimate has no more."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{max(1, round(seconds))} s"

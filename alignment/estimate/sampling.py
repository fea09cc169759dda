"""Predict the tokens, time and memory of generating: replies to prompts, or short answers to questions.

Replies are taken to have full length, as in the estimates of PPO and GRPO, so that the predicted time is an upper end
if most replies end earlier. Judges and critics that are a local model are questions whose answer has one or few tokens;
the time then is that of reading the prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignment.estimate import compute, tensor_bytes
from alignment.estimate.compute import Device
from alignment.estimate.fit import LARGEST_BATCH, TOO_LARGE, verdict
from alignment.estimate.models import TYPE_BYTES
from alignment.estimate.shape import Shape
from alignment.estimate.tensor_bytes import FLOAT, Precision
from alignment.text import gigabytes, rough_duration, short_number

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LOGIT_COPIES = 4  # of a step's logits in 32 bit: as computed, probabilities, their order, their cumulative sum


@dataclass(frozen=True)
class Questions:
    """What is asked of a model.

    Attributes:
        rows: prompts.
        mean_tokens: of a prompt.
        longest_tokens: of the longest prompt.
        answer_tokens: of an answer at most.
        answers: per prompt.
        batch: answers that are generated at a time.
        rows_per_part: prompts that are answered together, whose last batch may not be full; None: all.
        models: models of the same size that answer, one after the other.
    """

    rows: int
    mean_tokens: float
    longest_tokens: int
    answer_tokens: int
    answers: int = 1
    batch: int = 32
    rows_per_part: int | None = None
    models: int = 1

    @property
    def replies(self) -> int:
        return self.rows * self.answers * self.models

    @property
    def batches(self) -> int:
        """Batches in all parts."""
        part = max(1, min(self.rows, self.rows_per_part or self.rows))
        whole, rest = divmod(self.rows, part)
        return self.models * sum(
            number * math.ceil(prompts * self.answers / self.batch) for number, prompts in ((whole, part), (1, rest))
        )


@dataclass(frozen=True)
class SamplingEstimate:
    """The predicted cost of answering questions.

    Attributes:
        read: tokens of prompts, once per answer.
        generated: tokens of answers at most.
        seconds: None if the device's speed is not known.
        memory: part -> bytes at the peak.
        least: bytes at the peak with a batch of one answer.
        largest_batch: the largest batch that fits; 0 if none does.
        parameters: of the model that answers.
    """

    questions: Questions
    read: int
    generated: int
    seconds: float | None
    memory: dict[str, int]
    least: int
    largest_batch: int
    device: Device
    parameters: int

    @property
    def total_memory(self) -> int:
        """Bytes at the peak."""
        return sum(self.memory.values())

    @property
    def verdict(self) -> str:
        """`fits`, `tight` or `does not fit`."""
        return verdict(self.total_memory, self.device)


def estimate_sampling(
    shape: Shape,
    questions: Questions,
    device: Device,
    precision: Precision,
    reward: Shape | None = None,
) -> SamplingEstimate:
    """Predict the cost of answering questions on a device.

    Args:
        shape: of the model that answers.
        precision: of its weights, and of the reward's.
        reward: of a model that scores each answer, in batches of the same size.
    """
    memory = memory_parts(shape, questions, precision, device, reward)
    return SamplingEstimate(
        questions=questions,
        read=round(questions.replies * questions.mean_tokens),
        generated=questions.replies * questions.answer_tokens,
        seconds=_seconds(shape, questions, device, reward),
        memory=memory,
        least=sum(memory_parts(shape, questions, precision, device, reward, batch=1).values()),
        largest_batch=_largest_batch(shape, questions, precision, device, reward),
        device=device,
        parameters=shape.parameters,
    )


def _seconds(shape: Shape, questions: Questions, device: Device, reward: Shape | None) -> float | None:
    """Seconds of reading the prompts, of a step per further token, and of scoring the answers.

    A batch is read in one pass, which gives the first token; each further token takes a pass of its own.
    """
    length = questions.mean_tokens + questions.answer_tokens
    per_token = compute.forward_flops(shape, length)
    steps = max(0, questions.answer_tokens - 1)
    flops = questions.replies * per_token * (questions.mean_tokens + compute.SAMPLING_SLOWDOWN * steps)
    passes = questions.batches * shape.layers * (1 + steps)
    if reward is not None:
        flops += questions.replies * length * compute.forward_flops(reward, length)
        passes += questions.batches * reward.layers
    return compute.seconds(flops, passes, device)


def memory_parts(
    shape: Shape,
    questions: Questions,
    precision: Precision,
    device: Device,
    reward: Shape | None = None,
    batch: int | None = None,
) -> dict[str, int]:
    """Part -> bytes at the peak: weights, the KV cache of a batch at full length, the prompts' pass and the logits.

    Args:
        batch: answers at a time, instead of those of the questions.
    """
    sequences = min(questions.batch, questions.rows * questions.answers) if batch is None else batch
    parts = {
        "framework": tensor_bytes.GPU_FRAMEWORK if device.on_gpu else tensor_bytes.CPU_FRAMEWORK,
        "weights": tensor_bytes.model_bytes(shape, precision) * questions.models,
        "KV cache": tensor_bytes.cache_bytes(
            shape, precision, sequences, questions.longest_tokens + questions.answer_tokens
        ),
        "prompts' pass": tensor_bytes.forward_bytes(shape, precision, sequences, questions.longest_tokens),
        "logits": sequences * shape.vocab_size * FLOAT * LOGIT_COPIES,
    }
    return parts if reward is None else parts | {"reward model": tensor_bytes.model_bytes(reward, precision)}


def _largest_batch(
    shape: Shape, questions: Questions, precision: Precision, device: Device, reward: Shape | None
) -> int:
    """The largest power of two that fits as the number of answers at a time; 0 if one answer does not fit."""
    batch, largest = 1, 0
    while batch <= LARGEST_BATCH:
        size = sum(memory_parts(shape, questions, precision, device, reward, batch).values())
        if verdict(size, device) == TOO_LARGE:
            break
        batch, largest = 2 * batch, batch
    return largest


def saved_precision(config: PreTrainedConfig) -> Precision:
    """The precision of a model that is loaded as it was saved."""
    size = TYPE_BYTES.get(str(config.dtype or "float32").removeprefix("torch."), FLOAT)
    return Precision(size, size)


def describe_sampling(found: SamplingEstimate) -> str:
    """An estimate as indented lines, as those of a stage that trains."""
    asked = found.questions
    each = asked.answers * asked.models
    per = f"{asked.rows:,} prompts, {each} each" if each > 1 else f"{asked.rows:,} prompts"
    parts = sorted(found.memory.items(), key=lambda part: -part[1])
    shown = [f"{name} {gigabytes(size)}" for name, size in parts if size >= 0.02 * found.total_memory]
    total, device = gigabytes(found.total_memory), gigabytes(found.device.memory)
    more = " or more" if found.largest_batch == LARGEST_BATCH else ""
    batch = f", with a batch of up to {found.largest_batch}{more}" if found.largest_batch else ""
    lines = [
        ("model", f"{short_number(found.parameters)} parameters"),
        ("replies", f"{asked.replies:,} of at most {asked.answer_tokens:,} tokens ({per})"),
        ("tokens", f"at most {short_number(found.generated)} generated, about {short_number(found.read)} read"),
        ("memory", f"about {total} of {device} GB: {found.verdict}{batch}"),
        ("", ", ".join(shown)),
    ]
    if found.seconds is not None:
        lines.insert(
            3, ("time", f"about {rough_duration(found.seconds)} on {found.device.name} if replies have full length")
        )
    return "\n".join(f"  {label:8}{text}" for label, text in lines)

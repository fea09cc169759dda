"""What a stage will take: tokens, steps, time and memory; told before any training, without making weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedConfig


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
class Device:
    """What a stage runs on.

    Attributes:
        name: for people.
        memory: bytes; of a GPU its own, else the machine's RAM.
        flops: what training reaches a second, or None: then no time is told.
        on_gpu: whether memory is a GPU's, where the framework itself takes next to none.
    """

    name: str
    memory: int
    flops: float | None = None
    on_gpu: bool = False


@dataclass(frozen=True)
class Estimate:
    """What a stage will take.

    Attributes:
        tokens: trained on in all, padding aside; of PPO prompts and completions of all rollouts, at full length.
        steps: optimizer steps.
        batch_sequences: sequences an optimizer step (of pairs both sides; of packed rows the rows).
        batch_tokens: tokens an optimizer step, padding aside.
        seconds: about so many, or None where the device's speed is not known.
        memory: bytes at the peak, by part.
        device: with its memory.
        parameters: of the model that is trained, all of them.
        trainable: those that learn; with PPO without the critic's.
        mends: what to change where memory is short.
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

    @property
    def total_memory(self) -> int:
        """Bytes at the peak."""
        return sum(self.memory.values())

    @property
    def verdict(self) -> str:
        """`fits`, `tight` or `does not fit`."""
        raise NotImplementedError


def this_device(measure: bool = True) -> Device:
    """This machine's GPU, else its processor; `measure` times a matrix product for up to a second."""
    raise NotImplementedError


def estimate(
    stage: str,
    configs: tuple[Any, ...],
    model_config: PreTrainedConfig,
    rows: TokenStatistics,
    device: Device,
    *,
    adapter: PeftConfig | None = None,
    reward_config: PreTrainedConfig | None = None,
) -> Estimate:
    """What a stage will take on a device.

    Args:
        stage: pretrain, sft, reward, dpo or ppo.
        configs: the stage's dataclasses, as `StageSpec.configs` builds them.
        model_config: of the model that is trained; of an adapter its base's.
        adapter: the parent's own adapter, where it is one (a new adapter is read from the configs).
        reward_config: of PPO's reward model; default: as the policy's.
    """
    raise NotImplementedError


def describe(estimate: Estimate) -> str:
    """A few short lines for people."""
    raise NotImplementedError

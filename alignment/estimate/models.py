"""The models that a stage holds in memory, and their precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alignment.estimate.compute import Device
from alignment.estimate.shape import Shape, shape_of
from alignment.estimate.tensor_bytes import Precision
from alignment.estimate.workload import Keys
from alignment.stages import CLASSIFIER, STAGES

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedConfig

# Bytes per weight: 4 bits plus its share of the constant of a block of 64, in 32 bit, or 8 with double quantisation.
PLAIN_NF4_BYTES, NF4_BYTES, INT8_BYTES = 0.5625, 0.516, 1.0
TYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Models:
    """The models of a stage.

    Attributes:
        policy: the model that is trained.
        frozen: name -> parameters, of the models that are not trained.
        critic: PPO's critic, if it is a separate model.
        critic_mode: PPO's `critic_mode`, resolved.
    """

    policy: Shape
    frozen: dict[str, int] = field(default_factory=dict)
    critic: Shape | None = None
    critic_mode: str | None = None


def new_adapter(stage: str, keys: Keys) -> PeftConfig:
    """The adapter that a stage adds.

    One trained row of the embeddings stands for the few tokens of the chat template.
    """
    from peft import LoraConfig

    classifies = STAGES[stage].checkpoint == CLASSIFIER
    return LoraConfig(
        r=keys.lora_r,
        lora_dropout=keys.lora_dropout,
        target_modules=keys.lora_target_modules or "all-linear",
        modules_to_save=["score"] if classifies else keys.lora_modules_to_save,
        use_dora=keys.use_dora,
        trainable_token_indices=None if classifies else [0],
        task_type="SEQ_CLS" if classifies else "CAUSAL_LM",
    )


def models_of(
    stage: str,
    keys: Keys,
    policy: tuple[PreTrainedConfig, PeftConfig | None],
    reward: tuple[PreTrainedConfig, PeftConfig | None] | None,
    has_reference: bool,
) -> Models:
    """The models that a stage holds; for PPO as in docs/ppo.md. A base under several adapters is held once.

    Args:
        policy: config and adapter of the trained model.
        reward: config and adapter of the reward model, if there is one.
        has_reference: the reference is a model in addition to the policy's base.
    """
    facts = STAGES[stage]
    trained, adapter = shape_of(*policy, facts.checkpoint), policy[1]
    if not facts.has_reference:
        return Models(trained)
    # If the policy is an adapter, the reference is a second adapter on the same base.
    copy_size = trained.trainable if adapter is not None else trained.parameters
    frozen = {"reference model": copy_size} if has_reference and (not facts.samples or keys.beta > 0) else {}
    if not facts.samples:
        return Models(trained, frozen)
    # In PPO a reward model that is an adapter shares the policy's base; in TRL's GRPO it has its own.
    shared = facts.has_critic and reward is not None and reward[1] is not None and adapter is not None
    if reward is not None:
        judge = shape_of(*reward, CLASSIFIER)
        frozen["reward model"] = judge.trainable if shared else judge.parameters
    if not facts.has_critic:
        return Models(trained, frozen)
    mode = keys.critic_mode or ("lora" if adapter is not None else "separate")
    critic = None
    if mode == "separate":
        start = policy if reward is None or shared else reward
        critic = shape_of(*start, CLASSIFIER)
    return Models(trained, frozen, critic, mode)


def precision_of(keys: Keys, config: PreTrainedConfig) -> Precision:
    """The precision of the weights and of the computation."""
    dtype = keys.dtype or "float32"
    if dtype == "auto":
        dtype = str(config.dtype or "float32").removeprefix("torch.")
    weights = TYPE_BYTES[dtype]
    nf4 = NF4_BYTES if keys.use_bnb_nested_quant else PLAIN_NF4_BYTES
    quantised = nf4 if keys.load_in_4bit else INT8_BYTES if keys.load_in_8bit else None
    return Precision(weights, 2 if keys.bf16 or keys.fp16 else weights, quantised)


def is_dense(stage: str, keys: Keys, shape: Shape, device: Device) -> bool:
    """Whether attention keeps its scores: eager attention does, and on a CPU any with dropout (none in PPO, GRPO)."""
    has_dropout = shape.dropout > 0 and not STAGES[stage].samples
    return keys.attn_implementation == "eager" or (has_dropout and not device.on_gpu)

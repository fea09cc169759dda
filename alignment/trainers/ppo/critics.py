"""Scores and values: a head on a trunk.

The trunk is a model of its own, the policy's, or the policy's base under another adapter. A critic's outputs are
[B, T + 1]: its values before each completion token and after the last. A reward model's scores are [B], each read at
the one token of its row at which the model was trained (alignment/tokenization/reward_rows.py).
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, TrainerCallback

from alignment.errors import UserError
from alignment.models.adapters import give_token_rows
from alignment.models.checkpoints import (
    adapter_base,
    has_earlier_adapters,
    is_adapter,
    recorded_quantization,
    require_sound,
)
from alignment.models.context_length import context_length
from alignment.models.loading import load_trainable, require_reward_model
from alignment.models.quantization import quantization_of
from alignment.tokenization.reward_rows import score_index
from alignment.trainers.ppo.models import adapter, add_copy, add_frozen, completion_states, inner, trunk_states

CRITIC_ADAPTER = "critic"
SCORE_KEY = "base_model.model.score.weight"


class ModelScorer:
    """A sequence-classification model with one label."""

    shares_trunk = False

    def __init__(self, model: nn.Module):
        if not hasattr(inner(model), "score") or model.config.num_labels != 1:
            raise UserError(
                "Not a model that gives one score.",
                got=f"{type(inner(model)).__name__} with {model.config.num_labels} labels",
                expected="a sequence-classification model with a `score` head and 1 label",
            )
        self.model = model

    @property
    def context(self) -> int | None:
        """Positions of the model."""
        return positions(self.model)

    def outputs(self, batch: dict[str, Tensor]) -> Tensor:
        return inner(self.model).score(completion_states(self.model, batch)).squeeze(-1).float()

    def scores(self, batch: dict[str, Tensor], pad_token_id: int | None) -> Tensor:
        """One score a row. -> [B]."""
        return inner(self.model).score(scored_state(self.model, batch, pad_token_id)).squeeze(-1).float()

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}


class AdapterScorer:
    """A head on the policy's base under an adapter of its own.

    In training it needs a backward pass of its own, within `adapter`: gradients reach none but the active adapter's
    weights, and activation checkpointing repeats the forward pass with whichever adapter is active by then.
    """

    shares_trunk = False

    def __init__(self, policy: PeftModel, name: str, head: nn.Linear, below: Sequence[str] = ()):
        self.policy, self.names, self.model = policy, [name, *below], head

    @property
    def name(self) -> str:
        """Of its own adapter; those below it are the policy's."""
        return self.names[0]

    @property
    def context(self) -> int | None:
        """Positions of the base."""
        return positions(self.policy)

    def outputs(self, batch: dict[str, Tensor]) -> Tensor:
        with adapter(self.policy, *self.names):
            return self.model(completion_states(self.policy, batch)).squeeze(-1).float()

    def scores(self, batch: dict[str, Tensor], pad_token_id: int | None) -> Tensor:
        """One score a row. -> [B]."""
        with adapter(self.policy, *self.names):
            return self.model(scored_state(self.policy, batch, pad_token_id)).squeeze(-1).float()

    def trained(self) -> dict[str, nn.Parameter]:
        own = {name: p for name, p in self.policy.named_parameters() if self.name in name.split(".")}
        return own | {f"score.{name}": p for name, p in self.model.named_parameters()}


class HeadScorer:
    """A value head on the policy's trunk: of the policy's own pass, whose hidden states it is given."""

    shares_trunk = True

    def __init__(self, policy: nn.Module):
        self.model = new_head(policy)

    def of_states(self, states: Tensor) -> Tensor:
        return self.model(states).squeeze(-1).float()

    def trained(self) -> dict[str, nn.Parameter]:
        return {f"score.{name}": p for name, p in self.model.named_parameters()}


Scorer = ModelScorer | AdapterScorer | HeadScorer


def scored_state(model: nn.Module, batch: dict[str, Tensor], pad_token_id: int | None) -> Tensor:
    """The trunk's hidden state at the token of each row where a score is read. -> [B, H]."""
    states = trunk_states(model, batch)
    index = score_index(batch["input_ids"], batch["attention_mask"], pad_token_id)
    return states[torch.arange(len(states), device=states.device), index]


def positions(model: nn.Module) -> int | None:
    """How many positions a model has; None if it names no limit."""
    return context_length(inner(model).config)


def new_head(policy: nn.Module) -> nn.Linear:
    """A head that says 0, for the policy's hidden states."""
    embeddings = inner(policy).get_input_embeddings().weight
    width = inner(policy).config.get_text_config().hidden_size
    head = nn.Linear(width, 1, bias=False, device=embeddings.device, dtype=embeddings.dtype)
    nn.init.zeros_(head.weight)
    return head


def load_scorer(model: str | nn.Module, policy: nn.Module, adapter_name: str) -> ModelScorer | AdapterScorer:
    """A reward model; one that is an adapter on the policy's own base goes onto it, so that the base is held once.

    Args:
        adapter_name: what the adapter is called there.
    """
    if not isinstance(model, str):
        return ModelScorer(model)
    if shares_base(model, policy):
        return _onto_the_policy(model, policy, adapter_name)
    require_reward_model(model)
    return ModelScorer(load_trainable(model, "sequence-classification"))


def shares_base(checkpoint: str, policy: nn.Module) -> bool:
    """Whether a checkpoint is an adapter on the very base that the policy's adapter sits on, with none in between.

    A base that is quantised otherwise is another one.
    """
    if not isinstance(policy, PeftModel) or len(policy.active_adapters) > 1:
        return False
    if not is_adapter(checkpoint) or has_earlier_adapters(checkpoint):
        return False
    bases = [adapter_base(checkpoint), inner(policy).config.name_or_path]
    if quantization_of(inner(policy)) != recorded_quantization(checkpoint):
        return False
    return bases[0] == bases[1] or Path(bases[0]).resolve() == Path(bases[1]).resolve()


def _onto_the_policy(checkpoint: str, policy: PeftModel, name: str) -> AdapterScorer:
    require_sound(checkpoint)
    config, weights = PeftConfig.from_pretrained(checkpoint), load_peft_weights(checkpoint)
    if SCORE_KEY not in weights:
        raise UserError(f"{checkpoint} is no reward model.", got="an adapter without a score head")
    head = new_head(policy)
    with torch.no_grad():
        head.weight.copy_(weights.pop(SCORE_KEY))
    config.task_type, config.modules_to_save, config.inference_mode = None, None, True
    give_token_rows(policy, config, weights)
    add_frozen(policy, name, config)
    found = set_peft_model_state_dict(policy, weights, adapter_name=name)
    missing = [key for key in found.missing_keys if f".{name}." in key]
    if found.unexpected_keys or missing:
        raise UserError(
            f"{checkpoint} does not fit the policy.",
            got=f"missing {missing[:3]}, unexpected {found.unexpected_keys[:3]}",
            expected="an adapter for the architecture of the policy's base",
        )
    return AdapterScorer(policy, name, head)


def make_critic(
    policy: nn.Module, rewards: list[Scorer], value_model: str | nn.Module | None, mode: str | None
) -> Scorer:
    """The critic, by `PPOConfig.critic_mode`.

    It starts from `value_model`, else from the reward model if there is exactly one, else from the policy's trunk with
    a head that says 0; a head on the policy's own trunk always does the latter.
    """
    mode = mode or ("lora" if isinstance(policy, PeftModel) and value_model is None else "separate")
    if mode != "separate" and value_model is not None:
        raise UserError(f"critic_mode: {mode} leaves no room for a value_model.", expected="critic_mode: separate")
    if mode == "shared_head":
        return HeadScorer(policy)
    if mode == "lora":
        return _adapter_critic(policy, rewards)
    if value_model is not None:
        model = value_model
        critic = ModelScorer(load_trainable(model, "sequence-classification") if isinstance(model, str) else model)
    elif len(rewards) == 1 and isinstance(rewards[0], ModelScorer):
        critic = ModelScorer(copy.deepcopy(rewards[0].model))
    elif quantization_of(inner(policy)) is not None:
        raise UserError(
            "A critic of its own cannot start from a quantised policy, whose weights it would train.",
            got=f"critic_mode: {mode}, and neither a reward model nor a value_model to start from",
            expected="a critic that shares the policy's base, or a model to start from",
            fix="critic_mode: lora or shared_head, or a value_model_path",
        )
    else:
        critic = ModelScorer(_critic_from_policy(policy))
    _make_trainable(critic.model)
    return critic


def _adapter_critic(policy: nn.Module, rewards: list[Scorer]) -> AdapterScorer:
    if not isinstance(policy, PeftModel):
        raise UserError("critic_mode: lora needs a policy with an adapter.", fix="a peft_config (use_peft: true)")
    head, source, below = new_head(policy), policy.active_adapter, policy.active_adapters[1:]
    if len(rewards) == 1 and isinstance(rewards[0], AdapterScorer):
        source, below = rewards[0].name, []
        head.load_state_dict(rewards[0].model.state_dict())
    add_copy(policy, source, CRITIC_ADAPTER)
    critic = AdapterScorer(policy, CRITIC_ADAPTER, head, below)
    for parameter in critic.trained().values():
        parameter.requires_grad_(True)
    return critic


def _make_trainable(critic: nn.Module) -> None:
    if isinstance(critic, PeftModel):
        critic.requires_grad_(False)
        critic.set_adapter(critic.active_adapter)
        inner(critic).score.requires_grad_(True)
    else:
        critic.requires_grad_(True)


def _critic_from_policy(policy: nn.Module) -> nn.Module:
    trunk = copy.deepcopy(policy)
    if isinstance(policy, PeftModel):
        trunk = trunk.merge_and_unload()
    config = copy.deepcopy(trunk.config)
    config.num_labels = 1
    critic = AutoModelForSequenceClassification.from_config(config, dtype=trunk.dtype)
    critic.base_model.load_state_dict(trunk.base_model.state_dict())
    nn.init.zeros_(critic.score.weight)
    if isinstance(policy, PeftModel):
        own = copy.deepcopy(policy.peft_config[policy.active_adapter])
        own.task_type, own.modules_to_save, own.inference_mode = "SEQ_CLS", ["score"], False
        critic = get_peft_model(critic, own)
    return critic


class CriticCallback(TrainerCallback):
    """Does for the critic's own module what Trainer does for the policy: clip the gradients, clear them after the step.

    An adapter on the policy's base is part of the policy's module: Trainer clips it together with the policy.
    """

    def __init__(self, critic: nn.Module):
        self.critic = critic

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if args.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self.critic.parameters(), args.max_grad_norm)

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.critic.zero_grad()

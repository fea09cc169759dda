"""Scorers: a scalar head on a trunk, as critic or as reward model.

The trunk is a separate model, the policy's trunk, or the policy's base under another adapter. A critic's outputs are
[B, T + 1]: its values before each completion token and after the last token. A reward model's scores are [B], each
read at the token of its row at which the model was trained (alignment/tokenization/reward_rows.py).
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, TrainerCallback

from alignment.errors import UserError
from alignment.models.adapters import fitted, give_token_rows, read_adapter
from alignment.models.checkpoints import (
    adapter_base,
    adapter_folder,
    has_earlier_adapters,
    is_adapter,
    recorded_quantization,
    require_sound,
)
from alignment.models.context_length import context_length
from alignment.models.examined.adapter_settings import load_adapter_settings
from alignment.models.loading import load_trainable, require_reward_model
from alignment.models.quantization import quantization_of
from alignment.tokenization.reward_rows import score_index
from alignment.trainers.ppo.models import (
    Model,
    adapter,
    add_copy,
    add_frozen,
    completion_states,
    inner,
    trunk_states,
)

CRITIC_ADAPTER = "critic"
SCORE_KEY = "base_model.model.score.weight"


class ModelScorer:
    """A sequence-classification model with one label."""

    def __init__(self, model: Model):
        if not hasattr(inner(model), "score") or model.config.num_labels != 1:
            raise UserError(
                "The model is not a reward model.",
                got=f"{type(inner(model)).__name__} with {model.config.num_labels} labels",
                expected="a sequence-classification model with a `score` head and one label",
            )
        self.model = model

    @property
    def context(self) -> int | None:
        """Number of positions of the model; None without a limit."""
        return positions(self.model)

    def outputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Values before each completion token and after the last. -> [B, T + 1]."""
        return inner(self.model).score(completion_states(self.model, batch)).squeeze(-1).float()

    def scores(self, batch: dict[str, Tensor], pad_token_id: int | None) -> Tensor:
        """One score per row. -> [B]."""
        return inner(self.model).score(scored_state(self.model, batch, pad_token_id)).squeeze(-1).float()

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}


class AdapterScorer:
    """A head on the policy's base under a separate adapter.

    Its training needs a separate backward pass within `adapter`: gradients only reach the weights of the active
    adapter, and activation checkpointing repeats the forward pass with the adapter that is active at that time.
    """

    def __init__(self, policy: PeftModel, name: str, head: nn.Linear, below: Sequence[str] = ()):
        self.policy, self.names, self.model = policy, [name, *below], head

    @property
    def name(self) -> str:
        """Name of the scorer's adapter; the adapters below it are the policy's."""
        return self.names[0]

    @property
    def context(self) -> int | None:
        """Number of positions of the base; None without a limit."""
        return positions(self.policy)

    def outputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Values before each completion token and after the last. -> [B, T + 1]."""
        with adapter(self.policy, *self.names):
            return self.model(completion_states(self.policy, batch)).squeeze(-1).float()

    def scores(self, batch: dict[str, Tensor], pad_token_id: int | None) -> Tensor:
        """One score per row. -> [B]."""
        with adapter(self.policy, *self.names):
            return self.model(scored_state(self.policy, batch, pad_token_id)).squeeze(-1).float()

    def trained(self) -> dict[str, nn.Parameter]:
        own = {name: p for name, p in self.policy.named_parameters() if self.name in name.split(".")}
        return own | {f"score.{name}": p for name, p in self.model.named_parameters()}


class HeadScorer:
    """A value head on the policy's trunk, which reads the hidden states of the policy's forward pass."""

    def __init__(self, policy: Model):
        self.model = new_head(policy)

    def of_states(self, states: Tensor) -> Tensor:
        """Values before each completion token and after the last. states [B, T + 1, H] -> [B, T + 1]."""
        return self.model(states).squeeze(-1).float()

    def trained(self) -> dict[str, nn.Parameter]:
        return {f"score.{name}": p for name, p in self.model.named_parameters()}


Scorer: TypeAlias = ModelScorer | AdapterScorer | HeadScorer


def scored_state(model: nn.Module, batch: dict[str, Tensor], pad_token_id: int | None) -> Tensor:
    """The trunk's hidden state at the token of each row at which a score is read. -> [B, H]."""
    states = trunk_states(model, batch)
    index = score_index(batch["input_ids"], batch["attention_mask"], pad_token_id)
    return states[torch.arange(len(states), device=states.device), index]


def positions(model: nn.Module) -> int | None:
    """Number of positions of a model; None without a limit."""
    return context_length(inner(model).config)


def new_head(policy: Model) -> nn.Linear:
    """A head for the policy's hidden states whose output is 0."""
    embeddings = inner(policy).get_input_embeddings().weight
    width = inner(policy).config.get_text_config().hidden_size
    head = nn.Linear(width, 1, bias=False, device=embeddings.device, dtype=embeddings.dtype)
    nn.init.zeros_(head.weight)
    return head


def load_scorer(model: str | Model, policy: Model, adapter_name: str) -> ModelScorer | AdapterScorer:
    """Load a reward model; an adapter on the policy's base is loaded onto the policy, so that the base is held once.

    Args:
        adapter_name: name of that adapter on the policy.
    """
    if not isinstance(model, str):
        return ModelScorer(model)
    if shares_base(model, policy):
        return _onto_the_policy(model, policy, adapter_name)
    require_reward_model(model)
    return ModelScorer(load_trainable(model, "sequence-classification"))


def shares_base(checkpoint: str, policy: Model) -> bool:
    """Whether a checkpoint is an adapter directly on the base of the policy's adapter, with the same quantisation."""
    if not isinstance(policy, PeftModel) or len(policy.active_adapters) > 1:
        return False
    if not is_adapter(checkpoint) or has_earlier_adapters(checkpoint):
        return False
    if set(load_adapter_settings(checkpoint).modules_to_save or ()) - {"score", "classifier"}:
        return False  # it has whole layers of its own, and PEFT would load them into the policy's base
    bases = [adapter_base(checkpoint), inner(policy).config.name_or_path]
    if quantization_of(inner(policy)) != recorded_quantization(checkpoint):
        return False
    return bases[0] == bases[1] or Path(bases[0]).resolve() == Path(bases[1]).resolve()


def _onto_the_policy(checkpoint: str, policy: PeftModel, name: str) -> AdapterScorer:
    require_sound(checkpoint)
    config, weights = read_adapter(adapter_folder(checkpoint))
    if SCORE_KEY not in weights:
        raise UserError(f"{checkpoint} is not a reward model.", got="an adapter without a score head")
    head = new_head(policy)
    with torch.no_grad(), fitted(checkpoint):
        head.weight.copy_(weights.pop(SCORE_KEY))
    config.task_type, config.modules_to_save, config.inference_mode = None, None, True
    give_token_rows(policy, config, weights)
    with fitted(checkpoint):
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


def make_critic(policy: Model, rewards: Sequence[Scorer], value_model: str | Model | None, mode: str | None) -> Scorer:
    """Make the critic that `PPOConfig.critic_mode` names.

    It starts from `value_model`, else from the reward model if there is exactly one, else from the policy's trunk with
    a head that outputs 0. A head on the policy's trunk always outputs 0 at first.
    """
    mode = mode or ("lora" if isinstance(policy, PeftModel) and value_model is None else "separate")
    if mode != "separate" and value_model is not None:
        raise UserError(f"critic_mode: {mode} excludes a value_model.", expected="critic_mode: separate")
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
            "A separate critic cannot start from a quantised policy, whose weights it would train.",
            got=f"critic_mode: {mode}, without a reward model or a value_model to start from",
            expected="a critic that shares the policy's base, or a model to start from",
            fix="set critic_mode: lora or shared_head, or give a value_model_path",
        )
    else:
        critic = ModelScorer(_critic_from_policy(policy))
    _make_trainable(critic.model)
    return critic


def _adapter_critic(policy: Model, rewards: Sequence[Scorer]) -> AdapterScorer:
    if not isinstance(policy, PeftModel):
        raise UserError("critic_mode: lora needs a policy with an adapter.", fix="give a peft_config (use_peft: true)")
    head, source, below = new_head(policy), policy.active_adapter, policy.active_adapters[1:]
    if len(rewards) == 1 and isinstance(rewards[0], AdapterScorer):
        source, below = rewards[0].name, []
        head.load_state_dict(rewards[0].model.state_dict())
    add_copy(policy, source, CRITIC_ADAPTER)
    critic = AdapterScorer(policy, CRITIC_ADAPTER, head, below)
    for parameter in critic.trained().values():
        parameter.requires_grad_(True)
    return critic


def _make_trainable(critic: Model) -> None:
    if isinstance(critic, PeftModel):
        critic.requires_grad_(False)
        critic.set_adapter(critic.active_adapter)
        inner(critic).score.requires_grad_(True)
    else:
        critic.requires_grad_(True)


def _critic_from_policy(policy: Model) -> Model:
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


def parameter_groups(critic: Scorer, decayed: set[str], learning_rate: float, weight_decay: float) -> list[dict]:
    """Optimizer groups of the critic's parameters, with and without weight decay.

    Args:
        decayed: names of the parameters that decay.
    """
    trained = critic.trained()
    groups = []
    for decay, names in [(weight_decay, trained.keys() & decayed), (0.0, trained.keys() - decayed)]:
        if names:
            parameters = [parameter for name, parameter in trained.items() if name in names]
            groups.append({"params": parameters, "lr": learning_rate, "weight_decay": decay})
    return groups


class CriticCallback(TrainerCallback):
    """Clips the gradients of the critic's module, and clears them after the step, as Trainer does for the policy.

    An adapter on the policy's base is part of the policy's module: Trainer clips it together with the policy.
    """

    def __init__(self, critic: nn.Module):
        self.critic = critic

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self.critic.parameters(), args.max_grad_norm)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.critic.zero_grad()

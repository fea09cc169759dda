"""The four models of PPO (policy, reference, reward, critic): how each is made and run."""

import copy
from collections.abc import Callable
from contextlib import contextmanager

import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel, TrainerCallback
from transformers.utils import find_adapter_config_file

from alignment.errors import UserError
from alignment.models.loading import REFERENCE_ADAPTER, copy_adapter
from alignment.trainers.ppo_rollout import Rollout


def load_policy(model: str | nn.Module, peft_config: PeftConfig | None) -> nn.Module:
    """The model to train: all of it, its trainable adapter, or a new adapter by peft_config."""
    if isinstance(model, str):
        if find_adapter_config_file(model) is not None:
            model = AutoPeftModelForCausalLM.from_pretrained(model, is_trainable=True)
        else:
            model = AutoModelForCausalLM.from_pretrained(model)
    if not isinstance(model, PeftModel):
        return model if peft_config is None else get_peft_model(model, peft_config)
    if peft_config is not None:
        raise UserError(
            "The policy already has an adapter.",
            got=f"adapter {model.active_adapter!r} and a peft_config",
            mend="merge the adapter first (merge_and_unload), or leave peft_config out to go on training it",
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            "The policy's adapter is frozen.",
            needed="a trainable adapter",
            mend="load it with PeftModel.from_pretrained(..., is_trainable=True)",
        )
    return model


def load_scorer(model: str | nn.Module) -> nn.Module:
    """A sequence-classification model with one label: a reward model or a critic."""
    if isinstance(model, str):
        has_adapter = find_adapter_config_file(model) is not None
        auto_class = AutoPeftModelForSequenceClassification if has_adapter else AutoModelForSequenceClassification
        model = auto_class.from_pretrained(model, num_labels=1)
    if not hasattr(inner(model), "score") or model.config.num_labels != 1:
        raise UserError(
            "Not a model that gives one score.",
            got=f"{type(inner(model)).__name__} with {model.config.num_labels} labels",
            needed="a sequence-classification model with a `score` head and 1 label",
        )
    return model


def make_critic(policy: nn.Module, reward_models: list[nn.Module], value_model: str | nn.Module | None) -> nn.Module:
    """The given critic; else a copy of the reward model if there is one; else the policy's trunk with a zero head."""
    if value_model is not None:
        critic = load_scorer(value_model)
    elif len(reward_models) == 1:
        critic = copy.deepcopy(reward_models[0])
    else:
        critic = _critic_from_policy(policy)
    if isinstance(critic, PeftModel):
        critic.requires_grad_(False)
        critic.set_adapter(critic.active_adapter)
        inner(critic).score.requires_grad_(True)
    else:
        critic.requires_grad_(True)
    return critic


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
        adapter = copy.deepcopy(policy.peft_config[policy.active_adapter])
        adapter.task_type, adapter.modules_to_save, adapter.inference_mode = "SEQ_CLS", ["score"], False
        critic = get_peft_model(critic, adapter)
    return critic


class CriticCallback(TrainerCallback):
    """Does for the critic what Trainer does for the model it knows: clip the gradients, clear them after the step."""

    def __init__(self, critic: nn.Module):
        self.critic = critic

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if args.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self.critic.parameters(), args.max_grad_norm)

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.critic.zero_grad()


class Reference:
    """The frozen policy that the KL is measured against; with an adapter it shares the policy's base weights."""

    def __init__(self, policy: nn.Module, ref_model: str | nn.Module | None, continues_adapter: bool):
        self.policy, self.model, self.adapter = policy, None, None
        if ref_model is not None:
            self.model = load_policy(ref_model, None) if isinstance(ref_model, str) else ref_model
        elif not isinstance(policy, PeftModel):
            self.model = copy.deepcopy(policy)
        elif continues_adapter:
            # Disabled adapters would measure the KL to the base model, not to the SFT policy that training starts from
            self.adapter = REFERENCE_ADAPTER
            if REFERENCE_ADAPTER not in policy.peft_config:
                trained = policy.active_adapter
                policy.add_adapter(REFERENCE_ADAPTER, policy.peft_config[trained])
                copy_adapter(policy, trained, REFERENCE_ADAPTER)
                policy.set_adapter(trained)
        if self.model is not None:
            self.model.requires_grad_(False).eval().to(policy.device)

    @contextmanager
    def active(self):
        """The model to run in place of the policy, for as long as the context lasts."""
        if self.model is not None:
            yield self.model
        elif self.adapter is None:
            with self.policy.disable_adapter():
                yield self.policy
        else:
            trained = self.policy.active_adapter
            self.policy.set_adapter(self.adapter, inference_mode=True)
            try:
                yield self.policy
            finally:
                self.policy.set_adapter(trained)

    @contextmanager
    def left_out(self):
        """Hide the reference adapter from save_pretrained: a checkpoint holds the policy alone."""
        if self.adapter is None:
            yield
            return
        config = self.policy.peft_config.pop(self.adapter)
        try:
            yield
        finally:
            self.policy.peft_config[self.adapter] = config


def inner(model: nn.Module) -> PreTrainedModel:
    """The transformers model, inside PEFT's wrapper if there is one."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def disable_dropout(model: nn.Module) -> None:
    """Make training mode deterministic: dropout layers, and the rates that attention modules keep as numbers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions counted from the first real token: left padding must not shift absolute positions. [B, L] -> [B, L]."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def completion_logits(model: nn.Module, batch: dict[str, Tensor], temperature: float) -> Tensor:
    """Logits that predict the completion tokens, at the sampling temperature. -> [B, T, V]."""
    length = batch["completion_mask"].shape[1]
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=position_ids(batch["attention_mask"]),
        use_cache=False,
        logits_to_keep=length + 1,
    ).logits
    return logits[:, :-1] / temperature


def head_outputs(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The score head at the last prompt token and at each completion token. -> [B, T + 1].

    The last column is the reward-model score, read at the final token whatever the padding token is; the others are
    the critic's values before each completion token.
    """
    model = inner(model)
    hidden = model.base_model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=position_ids(batch["attention_mask"]),
        use_cache=False,
    ).last_hidden_state
    length = batch["completion_mask"].shape[1]
    return model.score(hidden[:, -length - 1 :]).squeeze(-1).float()


@torch.no_grad()
def chunked(function: Callable, rollout: Rollout, batch_size: int) -> Tensor:
    """function(batch) -> [b, t, ...] over a rollout, rows of like length together. -> [B, T, ...], 0 where trimmed."""
    result = None
    for rows in rollout.lengths.argsort(descending=True, stable=True).split(batch_size):
        batch = rollout.batch(rows)
        part = function(batch)
        if result is None:
            extra = part.shape[1] - batch["completion_mask"].shape[1]
            columns = rollout.completion_mask.shape[1] + extra
            result = part.new_zeros(len(rollout.lengths), columns, *part.shape[2:])
        result[rows, result.shape[1] - part.shape[1] :] = part
    return result

"""The policy and its reference: loading, switching of adapters, and forward passes over completions."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from alignment.errors import UserError
from alignment.models.adapters import copy_adapter, run_under
from alignment.models.loading import REFERENCE_ADAPTER, load_trainable
from alignment.models.output_layer import contiguous_states
from alignment.trainers.ppo.rollout import Rollout

Model: TypeAlias = PreTrainedModel | PeftModel


def load_policy(model: str | Model, peft_config: PeftConfig | None) -> Model:
    """Load the model to train: all of it, its trainable adapter, or a new adapter with the given config."""
    if isinstance(model, str):
        model = load_trainable(model, "causal-lm")
    if not isinstance(model, PeftModel):
        model = model if peft_config is None else get_peft_model(model, peft_config)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(
                "Nothing in the policy is trainable.", fix="call model.requires_grad_(True), or give a peft_config"
            )
        return model
    if peft_config is not None:
        raise UserError(
            "The policy already has an adapter.",
            got=f"adapter {model.active_adapter!r} and a peft_config",
            fix="merge the adapter first (merge_and_unload), or omit peft_config to train it further",
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            "The policy's adapter is frozen.",
            expected="a trainable adapter",
            fix="load it with PeftModel.from_pretrained(..., is_trainable=True)",
        )
    return model


@contextmanager
def adapter(model: PeftModel, *names: str) -> Iterator[PeftModel]:
    """Activate other adapters of a model; on exit restore the active adapters and what is trainable."""
    active = model.active_adapters
    run_under(model, names)
    try:
        yield model
    finally:
        run_under(model, active)


class Reference:
    """The frozen policy that the KL is measured against; if it is an adapter, it shares the policy's base weights."""

    def __init__(self, policy: Model, ref_model: str | Model | None, continues_adapter: bool):
        self.policy = policy
        self.model: Model | None = None
        self.adapter: str | None = None
        if ref_model is not None:
            self.model = load_policy(ref_model, None) if isinstance(ref_model, str) else ref_model
        elif not isinstance(policy, PeftModel):
            self.model = copy.deepcopy(policy)
        elif continues_adapter:
            # With adapters disabled the KL would be that to the base, not to the SFT policy that training starts from
            self.adapter = REFERENCE_ADAPTER
            if REFERENCE_ADAPTER not in policy.peft_config:
                add_copy(policy, policy.active_adapter, REFERENCE_ADAPTER)
        if self.model is not None:
            self.model.requires_grad_(False).eval().to(policy.device)

    @contextmanager
    def active(self) -> Iterator[Model]:
        """Yield the reference model, which may be the policy with other adapters until the context ends."""
        if self.model is not None:
            yield self.model
        elif self.adapter is None:
            with self.policy.disable_adapter():
                yield self.policy
        else:
            with adapter(self.policy, self.adapter):
                yield self.policy


def add_frozen(model: PeftModel, name: str, config: PeftConfig) -> None:
    """Add a frozen adapter next to the active ones; it replaces an adapter of that name from an earlier trainer."""
    active = model.active_adapters
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if name in model.peft_config:
        model.delete_adapter(name)
    model.add_adapter(name, copy.deepcopy(config))
    model.requires_grad_(False)
    for parameter in trainable:
        parameter.requires_grad_(True)
    run_under(model, active)


def add_copy(model: PeftModel, source: str, name: str) -> None:
    """Add a frozen adapter with the config and the weights of the adapter `source`."""
    add_frozen(model, name, model.peft_config[source])
    copy_adapter(model, source, name)


@contextmanager
def only_active_adapter(model: Model) -> Iterator[None]:
    """Hide the other adapters from save_pretrained, so that a checkpoint holds the policy alone."""
    hidden = {}
    if isinstance(model, PeftModel):
        hidden = {name: config for name, config in model.peft_config.items() if name != model.active_adapter}
        for name in hidden:
            del model.peft_config[name]
    try:
        yield
    finally:
        if hidden:
            model.peft_config.update(hidden)


def inner(model: nn.Module) -> PreTrainedModel:
    """The transformers model, unwrapped if PEFT wraps it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def disable_dropout(model: nn.Module) -> None:
    """Set all dropout rates to 0: in dropout layers, and in attention modules that keep the rate as a number."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions counted from the first real token, so that left padding does not shift them. [B, L] -> [B, L]."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def completion_pass(
    model: nn.Module, batch: dict[str, Tensor], temperature: float, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Run the model on prompts and completions.

    Args:
        options: passed to the model, for example `output_router_logits`.

    Returns:
        The logits of `completion_logits`, and the router losses (None if the model returns none).
    """
    length = batch["completion_mask"].shape[1]
    with contiguous_states(inner(model)):
        outputs = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            position_ids=position_ids(batch["attention_mask"]),
            use_cache=False,
            logits_to_keep=length + 1,
            **options,
        )
    logits = outputs.logits[:, :-1]
    logits = logits if temperature == 1.0 else logits.float() / temperature
    return logits, getattr(outputs, "aux_loss", None)


def completion_logits(model: nn.Module, batch: dict[str, Tensor], temperature: float) -> Tensor:
    """Logits that predict the completion tokens, at the sampling temperature. -> [B, T, V]."""
    return completion_pass(model, batch, temperature)[0]


@contextmanager
def recorded_states(model: nn.Module, batch: dict[str, Tensor]) -> Iterator[list[Tensor]]:
    """Yield a list to which each forward pass appends the trunk's hidden states, cut as in `completion_states`."""
    states: list[Tensor] = []
    kept = -batch["completion_mask"].shape[1] - 1
    hook = inner(model).base_model.register_forward_hook(lambda _, args, output: states.append(output[0][:, kept:]))
    try:
        yield states
    finally:
        hook.remove()


def completion_logits_and_states(
    model: nn.Module, batch: dict[str, Tensor], temperature: float
) -> tuple[Tensor, Tensor]:
    """`completion_logits` and `completion_states` from one forward pass."""
    with recorded_states(model, batch) as states:
        logits = completion_logits(model, batch, temperature)
    return logits, states[0]


def trunk_states(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The trunk's hidden states at every token. -> [B, L, H]."""
    return (
        inner(model)
        .base_model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            position_ids=position_ids(batch["attention_mask"]),
            use_cache=False,
        )
        .last_hidden_state
    )


def completion_states(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The trunk's hidden states at the last prompt token and at each completion token. -> [B, T + 1, H]."""
    return trunk_states(model, batch)[:, -batch["completion_mask"].shape[1] - 1 :]


@torch.no_grad()
def chunked(
    function: Callable[[dict[str, Tensor]], Tensor], rollout: Rollout, batch_size: int, extra: int = 0
) -> Tensor:
    """Apply a function to batches of a rollout, in which rows of similar length are together.

    Args:
        function: batch -> [b, t + extra, ...], for a batch whose completions have up to t tokens.
        extra: number of columns that the function returns in addition to the t completion tokens.

    Returns:
        [B, T + extra, ...], 0 in the leading columns that a batch did not have.

    Raises:
        ValueError: if the function returns another number of rows or columns.
    """
    result: Tensor | None = None
    for rows in rollout.lengths.argsort(descending=True, stable=True).split(batch_size):
        batch = rollout.batch(rows)
        part = function(batch)
        expected = (len(rows), batch["completion_mask"].shape[1] + extra)
        if part.shape[:2] != expected:
            raise ValueError(f"the function returned {tuple(part.shape[:2])} rows and columns, expected {expected}")
        if result is None:
            columns = rollout.completion_mask.shape[1] + extra
            result = part.new_zeros(len(rollout.lengths), columns, *part.shape[2:])
        result[rows, result.shape[1] - part.shape[1] :] = part
    return cast(Tensor, result)  # a rollout has rows

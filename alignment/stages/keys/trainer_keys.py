"""The keys of transformers' trainers: values that are refused before anything runs.

transformers takes them, and stumbles over them while training, or trains without a word something else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.integrations.integration_utils import get_available_reporting_integrations
from transformers.optimization import get_scheduler
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from alignment.errors import UserError
from alignment.models.checkpoints import is_full_memory, summary

LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "seed": 0,
    "data_seed": 0,
    "max_length": 2,  # a token to read and a token to learn
    "generation_batch_size": 1,
    "steps_per_generation": 1,
    "dataloader_num_workers": 0,
    "neftune_noise_alpha": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "label_smoothing_factor": 0,
}
LARGEST_SEED = 2**32 - 1  # of numpy's generator, which transformers seeds too
TRIED_STEPS = 100  # that a schedule is made for, to see whether it takes its settings
# What transformers, TRL and torch raise for settings that they do not take, or for a missing package.
NOT_TAKEN = (ValueError, TypeError, ImportError, RuntimeError, NotImplementedError, AttributeError)


def impossible_keys(args: Any) -> Iterator[UserError]:
    """Yield an error for each value that no training can have, before transformers sees the values."""
    for key, least in LEAST.items():
        value = getattr(args, key, None)
        if value is not None and not value >= least:  # NaN is not
            yield UserError(f"{key} is too small", got=value, expected=f"{least} or more")
    if args.seed is not None and args.seed > LARGEST_SEED:
        yield UserError("seed is too large", got=args.seed, expected=f"at most {LARGEST_SEED}")
    if not (math.isfinite(args.learning_rate) and args.learning_rate >= 0):
        yield UserError("learning_rate is not a rate", got=args.learning_rate, expected="a finite number, 0 or more")
    if not args.adam_epsilon > 0:
        yield UserError("adam_epsilon is too small: it keeps Adam from dividing by 0", got=args.adam_epsilon,
                        expected="more than 0", fix="leave it out: 1e-8")  # fmt: skip
    if not args.label_smoothing_factor < 1:
        yield UserError("label_smoothing_factor is too large", got=args.label_smoothing_factor, expected="less than 1")
    if not (math.isfinite(args.num_train_epochs) and (args.num_train_epochs > 0 or args.max_steps > 0)):
        yield UserError(
            "nothing would be trained, or without an end",
            got=f"num_train_epochs: {args.num_train_epochs}, max_steps: {args.max_steps}",
            expected="a finite number of epochs above 0, or max_steps above 0",
        )
    if getattr(args, "activation_offloading", False) and not torch.accelerator.is_available():
        yield UserError("activation_offloading needs a GPU", got="no GPU", fix="activation_offloading: false")


def refused_keys(args: TrainingArguments) -> Iterator[UserError]:
    """Yield an error for each value that only the trainer would refuse, by a trial of what it will make of them."""
    strategies = {"logging": args.logging_strategy, "eval": args.eval_strategy, "save": args.save_strategy}
    for name, strategy in strategies.items():
        steps = getattr(args, f"{name}_steps")
        if strategy in (IntervalStrategy.STEPS, SaveStrategy.STEPS) and steps is not None and not steps > 0:
            yield UserError(
                f"{name}_steps is too small", got=steps, expected="more than 0", fix=f"or {name}_strategy: 'no'"
            )
    absent = [name for name in args.report_to if name not in get_available_reporting_integrations()]
    if absent:
        yield UserError(
            "report_to names a service whose package is not installed, or that transformers does not know",
            got=", ".join(absent),
            expected=", ".join(["none", *get_available_reporting_integrations()]),
            fix="install its package, or report_to: none",
        )
    if lacks_package(args):
        return  # valid on a machine that has it; `require_optimizer` asks where the stage runs
    try:
        with untaken("the optimizer"):
            kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
            if "optimizer_dict" not in options and not args.optim_target_modules:
                optimizer = kind([torch.nn.Parameter(torch.zeros(1))], **options)
            else:
                optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
        with untaken("lr_scheduler_type"):
            warmup = args.get_warmup_steps(TRIED_STEPS)
            get_scheduler(args.lr_scheduler_type, optimizer, warmup, TRIED_STEPS, dict(args.lr_scheduler_kwargs or {}))
    except UserError as error:
        yield error


def lacks_package(args: TrainingArguments) -> Exception | None:
    """Return transformers' error about the package that an optimizer needs and this machine lacks, if any."""
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except ImportError as error:
        return error
    except NOT_TAKEN as error:
        return error if isinstance(error.__context__, ImportError) or "nstall" in str(error) else None
    return None


def require_optimizer(args: TrainingArguments) -> None:
    """Raise if this machine lacks the package of a stage's optimizer; a recipe for another machine may name it."""
    if missing := lacks_package(args):
        raise UserError(
            f"this machine lacks the package of the optimizer {args.optim.value}",
            got=summary(missing),
            fix="install the package, or optim: adamw_torch",
        ) from missing


@contextmanager
def untaken(what: str) -> Iterator[None]:
    """Turn a library's refusal of settings into a UserError.

    Args:
        what: the thing that is made with the settings, for the message.
    """
    try:
        yield
    except NOT_TAKEN as error:
        if is_full_memory(error):
            raise
        raise UserError(
            f"{what} cannot be made with these settings",
            got=summary(error),
            fix="correct or remove the key that the message is about",
        ) from error

"""The recipe keys that every trainer stage has in addition to those of its trainer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from alignment.callbacks.finite import Guarded
from alignment.callbacks.step_checkpoints import Resumable
from alignment.errors import UserError, raise_all
from alignment.stages.self_check.prove import SelfChecked
from alignment.stages.shared.defaults import HardwareDefaults

LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "seed": 0,
    "max_length": 2,  # a token to read and a token to learn
}
LARGEST_SEED = 2**32 - 1  # of numpy's generator, which transformers seeds too


@dataclass
class StageKeys(HardwareDefaults, Resumable, Guarded, SelfChecked):
    """Mixed in before a TrainingArguments class: defaults by hardware, step checkpoints, faults, self-check."""

    def __post_init__(self) -> None:
        raise_all([*self._impossible()])
        super().__post_init__()

    def _impossible(self) -> Iterator[UserError]:
        """Values that transformers would take, and stumble over while training."""
        for key, least in LEAST.items():
            value = getattr(self, key, None)
            if value is not None and value < least:
                yield UserError(f"{key} is too small", got=value, expected=f"{least} or more")
        if self.seed is not None and self.seed > LARGEST_SEED:
            yield UserError("seed is too large", got=self.seed, expected=f"at most {LARGEST_SEED}")
        if not (math.isfinite(self.num_train_epochs) and (self.num_train_epochs > 0 or self.max_steps > 0)):
            yield UserError(
                "num_train_epochs is not a number of epochs",
                got=self.num_train_epochs,
                expected="a finite number above 0, or max_steps above 0",
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate >= 0):
            yield UserError(
                "learning_rate is not a rate", got=self.learning_rate, expected="a finite number, 0 or more"
            )

"""The recipe keys that every trainer stage has in addition to those of its trainer."""

from dataclasses import dataclass

from alignment.callbacks.finite import Guarded
from alignment.callbacks.step_checkpoints import Resumable
from alignment.errors import raise_all
from alignment.stages.keys.trainer_keys import impossible_keys, refused_keys
from alignment.stages.self_check.prove import SelfChecked
from alignment.stages.shared.defaults import HardwareDefaults


@dataclass
class StageKeys(HardwareDefaults, Resumable, Guarded, SelfChecked):
    """Mixed in before a TrainingArguments class: defaults by hardware, step checkpoints, faults, self-check."""

    def __post_init__(self) -> None:
        raise_all([*impossible_keys(self)])
        super().__post_init__()
        raise_all([*refused_keys(self)])

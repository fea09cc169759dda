"""Loading checkpoints of any kind this project writes: full models, and adapters with the base they sit on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

ADAPTER_CONFIG = "adapter_config.json"
REFERENCE_ADAPTER = "ref"  # the name by which TRL's DPOTrainer knows a reference adapter too


def is_path(name: str) -> bool:
    """Whether the name of a model means a local path; what does not is a hub id.

    `runs/nowhere` is a path where there is a folder `runs`, though it has the form of a hub id.
    """
    beside = Path(name).expanduser().parent
    below_a_folder = beside != Path(".") and beside.is_dir()
    return Path(name).exists() or below_a_folder or name.startswith((".", "/", "~")) or name.count("/") > 1


def is_adapter(checkpoint: str | Path) -> bool:
    """Whether a checkpoint (folder or hub id) is an adapter; what cannot be reached is none."""
    return _adapter_config(checkpoint) is not None


def _adapter_config(checkpoint: str | Path) -> Path | None:
    if isinstance(checkpoint, Path) or is_path(checkpoint):
        file = Path(checkpoint) / ADAPTER_CONFIG
        return file if file.is_file() else None
    from transformers.utils import find_adapter_config_file

    with explained(checkpoint):  # what can be no hub id is refused there
        file = find_adapter_config_file(checkpoint)
    return None if file is None else Path(file)


def adapter_base(checkpoint: str | Path) -> str:
    """The base that an adapter sits on: as recorded, else beside it, where the run directory was moved.

    Raises:
        UserError: the base is at neither place and does not look like a hub id.
    """
    recorded = json.loads(_adapter_config(checkpoint).read_text(encoding="utf-8"))["base_model_name_or_path"]
    if Path(recorded).is_dir():
        return recorded
    moved = Path(checkpoint).resolve().parents[1].joinpath(*Path(recorded).parts[-2:])
    if moved.is_dir():
        return str(moved)
    if not is_path(recorded):
        return recorded
    raise UserError(
        f"{checkpoint} is an adapter whose base model is missing",
        got=f"no {recorded}, and no {moved}",
        needed="the base checkpoint that the adapter was trained on",
        mend="put it back, or correct base_model_name_or_path in adapter_config.json",
    )


def require_checkpoint(checkpoint: str | Path) -> None:
    """Raise for a local path without a model; what may be a hub id passes."""
    path = Path(checkpoint)
    if path.is_dir() and not (path / "config.json").is_file() and not is_adapter(path):
        raise UserError(
            f"{checkpoint} holds no model",
            got=", ".join(sorted(file.name for file in path.iterdir())[:6]) or "an empty folder",
            needed="config.json with weights, or adapter_config.json",
            mend="give the `checkpoint` folder of a finished stage, such as runs/tiny/sft/checkpoint",
        )
    if not path.exists() and is_path(str(checkpoint)):
        raise UserError(
            f"no checkpoint at {checkpoint}",
            needed="the folder of a checkpoint, or a hub id",
            mend="check the path; a stage's checkpoint is RUN_DIR/STAGE/checkpoint",
        )


def load_config(checkpoint: str | Path) -> PreTrainedConfig:
    """The config of a checkpoint (folder or hub id); of an adapter its base's."""
    from transformers import AutoConfig

    import alignment  # noqa: F401  (registers the architecture)

    require_checkpoint(checkpoint)
    whole = adapter_base(checkpoint) if is_adapter(checkpoint) else checkpoint
    try:
        with explained(whole):
            return AutoConfig.from_pretrained(whole)
    except ValueError as error:  # what transformers raises for a model type that it does not know
        raise UserError(
            f"{whole} is of an architecture that transformers does not know",
            got=str(error).strip().splitlines()[0],
            mend="check model_type in its config.json",
        ) from error


def require_reward_model(checkpoint: str | Path) -> None:
    """Raise for a model without a trained score head: transformers and PEFT would give it a random one."""
    require_checkpoint(checkpoint)
    if is_adapter(checkpoint):
        from peft import PeftConfig

        made_for = [PeftConfig.from_pretrained(checkpoint).task_type or "an adapter that names no task"]
    else:
        made_for = load_config(checkpoint).architectures or []
    if not any("SequenceClassification" in name or name == "SEQ_CLS" for name in made_for):
        raise UserError(
            f"{checkpoint} is no reward model: its score head would be random.",
            got=", ".join(made_for) or "a config that names no architecture",
            needed="a sequence-classification model",
            mend="give the checkpoint of a reward stage",
        )


def load_tokenizer(checkpoint: str | Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    with explained(checkpoint):
        return AutoTokenizer.from_pretrained(checkpoint)


@contextmanager
def explained(checkpoint: str | Path) -> Iterator[None]:
    """What transformers says of a hub id that it cannot reach, as a mistake that the user can mend."""
    try:
        yield
    except OSError as error:
        if is_path(str(checkpoint)):
            raise
        raise UserError(
            f"cannot load {checkpoint}",
            got=str(error).strip().splitlines()[0],
            needed="a checkpoint folder, or the id of a model on the hub that can be reached from here",
            mend="check the name; offline, only models in the local cache load",
        ) from error


def load_causal_lm(checkpoint: str | Path, **options) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM and its tokenizer, ready for inference; an adapter is merged into its base.

    Args:
        checkpoint: folder of a full model or an adapter, or hub id.
        options: passed to `from_pretrained`.
    """
    model = load_trainable(checkpoint, "causal-lm", **options)
    if is_adapter(checkpoint):
        model = model.merge_and_unload()
    return model.eval(), load_tokenizer(checkpoint)


def load_trainable(checkpoint: str | Path, kind: str, **options) -> PreTrainedModel | PeftModel:
    """A model to train on: a full one, or a PeftModel whose adapter is trainable.

    A sequence classifier may start from a causal LM's checkpoint: its `score` head is then new, and an adapter of the
    causal LM goes on as the classifier's.

    Args:
        kind: causal-lm or sequence-classification.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig

    import alignment  # noqa: F401  (registers the architecture)

    require_checkpoint(checkpoint)
    if kind == "sequence-classification":
        auto, options = AutoModelForSequenceClassification, {"num_labels": 1, **options}
    else:
        auto = AutoModelForCausalLM
    if not is_adapter(checkpoint):
        with explained(checkpoint):
            return auto.from_pretrained(checkpoint, **options)
    base_checkpoint = adapter_base(checkpoint)
    with explained(base_checkpoint):
        base = auto.from_pretrained(base_checkpoint, **options)
    if kind == "causal-lm" and (_adapter_config(checkpoint).parent / "generation_config.json").is_file():
        base.generation_config = GenerationConfig.from_pretrained(checkpoint)
    model = _with_adapter(base, checkpoint, kind)
    # Where the base was found beside the adapter, what is trained further must name the place where it is.
    model.peft_config[model.active_adapter].base_model_name_or_path = base_checkpoint
    return model


def copy_adapter(model: PeftModel, source: str, target: str) -> None:
    """Give one adapter of a model all the weights of another, trained tokens and heads included."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    weights = get_peft_model_state_dict(model, adapter_name=source)
    set_peft_model_state_dict(model, weights, adapter_name=target)


def _with_adapter(base: PreTrainedModel, checkpoint: str | Path, kind: str) -> PeftModel:
    """The base with the adapter, trainable; a causal LM's adapter on a classifier gets a score head to train."""
    from peft import (
        PeftConfig,
        PeftModel,
        get_peft_model,
        get_peft_model_state_dict,
        load_peft_weights,
        set_peft_model_state_dict,
    )

    config = PeftConfig.from_pretrained(checkpoint)
    if kind == "causal-lm" or config.task_type == "SEQ_CLS":
        return PeftModel.from_pretrained(base, checkpoint, is_trainable=True)
    config.task_type, config.modules_to_save, config.inference_mode = "SEQ_CLS", ["score"], False
    model = get_peft_model(base, config)
    # The new head's weights, and over them all that the causal LM's adapter has.
    set_peft_model_state_dict(model, get_peft_model_state_dict(model) | load_peft_weights(str(checkpoint)))
    return model

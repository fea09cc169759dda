"""Loading checkpoints of any kind this project writes: full models, and adapters with the base they sit on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UserError
from alignment.models.adapters import frozen_stack, with_adapter
from alignment.models.chain import read_chain, require_whole
from alignment.models.quantization import quantization_of, quantization_options

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


def adapter_folder(checkpoint: str | Path) -> Path:
    """The folder of an adapter; of one on the hub where its files are cached, those of its whole chain."""
    if isinstance(checkpoint, Path) or is_path(checkpoint):
        return Path(checkpoint)
    from huggingface_hub import snapshot_download

    with explained(checkpoint):
        files = ["adapter_*", "*/adapter_*", "generation_config.json"]
        return Path(snapshot_download(checkpoint, allow_patterns=files))


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


def has_earlier_adapters(checkpoint: str | Path) -> bool:
    """Whether other adapters stand between an adapter and its base."""
    chain = read_chain(adapter_folder(checkpoint)) if is_adapter(checkpoint) else None
    return chain is not None and bool(chain.earlier)


def require_chain(checkpoint: str | Path) -> None:
    """Raise for an adapter whose base is not the one that it was trained on, or whose earlier adapters are missing."""
    folder = adapter_folder(checkpoint)
    require_whole(folder, read_chain(folder), adapter_base(checkpoint))


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
    """A causal LM and its tokenizer, ready for inference; adapters are merged into their base, unless it is quantised.

    Args:
        checkpoint: folder of a full model or an adapter, or hub id.
        options: passed to `from_pretrained`.
    """
    model = load_trainable(checkpoint, "causal-lm", **options)
    if is_adapter(checkpoint) and quantization_of(model.get_base_model()) is None:
        model = model.merge_and_unload()
    return model.eval(), load_tokenizer(checkpoint)


def load_trainable(
    checkpoint: str | Path, kind: str, *, dequantize: bool = False, **options
) -> PreTrainedModel | PeftModel:
    """A model to train on: a full one, or a PeftModel whose adapter is trainable.

    A sequence classifier may start from a causal LM's checkpoint: its `score` head is then new, and an adapter of the
    causal LM goes on as the classifier's.

    Args:
        kind: causal-lm or sequence-classification.
        dequantize: load the quantised base of an adapter with the weights that it computes with.
    """
    require_checkpoint(checkpoint)
    auto, options = _auto_class(kind, options)
    if not is_adapter(checkpoint):
        with explained(checkpoint):
            return auto.from_pretrained(checkpoint, **options)
    base, base_checkpoint, folder = _base_model(checkpoint, auto, options, dequantize)
    model = with_adapter(base, folder, kind)
    # Where the base was found beside the adapter, what is trained further must name the place where it is.
    model.peft_config[model.active_adapter].base_model_name_or_path = base_checkpoint
    return model


def load_stack(checkpoint: str | Path, kind: str, **options) -> PeftModel:
    """A model under all adapters of a chain, none of which is trainable: for a new one to stand over them."""
    base, base_checkpoint, folder = _base_model(checkpoint, *_auto_class(kind, options))
    chain = read_chain(folder)
    folders = [folder / link.folder for link in chain.links] if chain else [folder]
    model = frozen_stack(base, folders, kind)
    for config in model.peft_config.values():
        config.base_model_name_or_path = base_checkpoint
    return model


def _auto_class(kind: str, options: dict) -> tuple[type, dict]:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    import alignment  # noqa: F401  (registers the architecture)

    if kind == "sequence-classification":
        return AutoModelForSequenceClassification, {"num_labels": 1, **options}
    return AutoModelForCausalLM, options


def _base_model(
    checkpoint: str | Path, auto: type, options: dict, dequantize: bool = False
) -> tuple[PreTrainedModel, str, Path]:
    """The base of an adapter, which is the one it was trained on; where it is; and the adapter's own folder.

    A base is made to stop where the adapter learned to.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    require_chain(checkpoint)
    base_checkpoint, folder = adapter_base(checkpoint), adapter_folder(checkpoint)
    chain = read_chain(folder)
    quantised = quantization_options(chain.quantization if chain else None, str(checkpoint))
    with explained(base_checkpoint):
        base = auto.from_pretrained(base_checkpoint, **quantised | options)
    if auto is AutoModelForCausalLM and (folder / "generation_config.json").is_file():
        base.generation_config = GenerationConfig.from_pretrained(folder)
    return base.dequantize() if quantised and dequantize else base, base_checkpoint, folder

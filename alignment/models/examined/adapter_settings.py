"""The settings of an adapter, as PEFT reads them: whether this project can use the adapter, and for what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.durable.read import COPY_AGAIN, read_json
from alignment.errors import UserError

if TYPE_CHECKING:
    from peft import PeftConfig

ADAPTER_CONFIG = "adapter_config.json"
BASE = "base_model_name_or_path"
# Kind of model -> the tasks whose adapters serve. A causal LM's adapter begins a classifier with a new head.
TASKS = {"causal-lm": (None, "CAUSAL_LM"), "sequence-classification": (None, "CAUSAL_LM", "SEQ_CLS")}


def named_base(config: Path) -> str:
    """Return the base that an adapter's settings name.

    Raises:
        UserError: they name none.
    """
    name = read_json(config, COPY_AGAIN).get(BASE)
    if not (isinstance(name, str) and name.strip()):
        raise UserError(
            f"{config.parent} is an adapter that does not name its base",
            got=f"{BASE}: {name!r}",
            expected=f"{BASE} in {ADAPTER_CONFIG}: the folder or hub id of the model that the adapter was trained on",
            fix=f"write the base's folder or hub id there; {config}",
        )
    return name


def load_adapter_settings(checkpoint: str | Path) -> PeftConfig:
    """Load the settings of an adapter (folder or hub id).

    Raises:
        UserError: PEFT does not know such settings, or the adapter is not one of weights.
    """
    from peft import PeftConfig

    if (Path(checkpoint) / ADAPTER_CONFIG).is_file():
        read_json(Path(checkpoint) / ADAPTER_CONFIG, COPY_AGAIN)
    try:
        config = PeftConfig.from_pretrained(checkpoint)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:  # as PEFT raises for other contents
        raise _refused(checkpoint, f"{type(error).__name__}: {error}") from error
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise UserError(
            f"{checkpoint} is a trained prompt, and no adapter of weights",
            got=f"peft_type: {_text(config.peft_type)}",
            expected="an adapter that changes layers, such as LORA",
            fix="train a LoRA adapter: use_peft: true in a recipe",
        )
    rank = getattr(config, "r", 1)
    if isinstance(rank, int | float | str) and not (type(rank) is int and rank >= 0):
        raise _refused(checkpoint, f"the rank r: {rank!r}")
    if _text(config.peft_type) == "LORA" and rank == 0:
        raise _refused(checkpoint, "the rank r: 0")
    return config


def require_task(config: PeftConfig, kind: str, checkpoint: str | Path) -> None:
    """Raise if an adapter was trained for another task than a kind of model has (`causal-lm`, ...)."""
    task = config.task_type and _text(config.task_type)
    if task not in TASKS[kind]:
        raise UserError(
            f"{checkpoint} is an adapter for another task, and serves as no {kind.replace('-', ' ')}",
            got=f"task_type: {task}",
            expected=f"task_type: {TASKS[kind][-1]}",
            fix="give the checkpoint of a reward stage where scores are needed, and of another stage for text",
        )


def _text(value: Any) -> str:
    return getattr(value, "value", str(value))


def _refused(checkpoint: str | Path, got: str) -> UserError:
    return UserError(
        f"{checkpoint} has settings that PEFT does not take for an adapter",
        got=got.splitlines()[0],
        expected=f"{ADAPTER_CONFIG} as PEFT's save_pretrained writes it",
        fix="copy or download the adapter again; if a newer PEFT wrote it, upgrade peft",
    )

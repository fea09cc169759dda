"""Quantised bases in 4 or 8 bits (QLoRA, arXiv 2305.14314): requirements, and options to load them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def missing_for_quantization() -> list[str]:
    """Return which requirements of a quantised base are missing on this machine."""
    import torch

    missing = [] if torch.cuda.is_available() else ["no CUDA device"]
    return missing + ([] if importlib.util.find_spec("bitsandbytes") else ["no bitsandbytes"])


def require_quantization(what: str) -> None:
    """Raise if this machine cannot load a quantised base."""
    if missing := missing_for_quantization():
        raise UserError(
            f"{what} needs a quantised base, which cannot be loaded on this machine",
            got=" and ".join(missing),
            expected="a CUDA device, and bitsandbytes (pip install bitsandbytes)",
            fix="load_in_4bit: false, load_in_8bit: false and dtype: bfloat16 train plain LoRA, on a CPU too",
        )


def require_method(config: PreTrainedConfig, checkpoint: str | Path) -> None:
    """Raise for a quantisation that transformers does not know: it would load the weights as if they were plain."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as METHODS

    settings = getattr(config, "quantization_config", None)
    if not isinstance(settings, dict) or settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return
    if settings.get("quant_method") not in METHODS:
        raise UserError(
            f"{checkpoint} is quantised by a method that transformers does not know",
            got=f"quant_method: {settings.get('quant_method')!r}",
            expected=f"one of {', '.join(sorted(METHODS))}",
            fix="give the model that is not quantised; if its weights are plain, remove quantization_config from "
            "config.json",
        )


def quantization_of(model: PreTrainedModel) -> dict[str, Any] | None:
    """Return the quantisation settings of a loaded model, as JSON; None if it is not quantised."""
    settings = getattr(model.config, "quantization_config", None)
    return settings if settings is None or isinstance(settings, dict) else settings.to_dict()


def quantization_options(recorded: dict[str, Any] | None, checkpoint: str) -> dict[str, Any]:
    """Return options of `from_pretrained` that quantise a base as when its adapter was trained.

    For 4 bits they include the dtype: the weights are rounded to it before they are quantised.
    """
    if recorded is None:
        return {}
    from transformers import BitsAndBytesConfig

    require_quantization(f"the adapter {checkpoint}")
    options = {"quantization_config": BitsAndBytesConfig.from_dict(recorded)}
    return options | ({"dtype": recorded["bnb_4bit_compute_dtype"]} if recorded.get("load_in_4bit") else {})

"""What a library made of a checkpoint: weights that it lacked, that do not fit, or that the model does not use.

transformers fills what is missing with random numbers, and says so in a table in the log. Here it is an error, unless
it is expected: a classifier's head when training starts from a causal LM.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError
from alignment.models.examined.weight_files import stored_types

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)
LISTED = 4
INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")
CAUSAL = ("ForCausalLM", "ForConditionalGeneration")
WITHOUT_PREFIX = (
    "python -c 'from pathlib import Path; from safetensors.torch import load_file, save_file; "
    '[save_file({{k.removeprefix("{prefix}"): v for k, v in load_file(f).items()}}, f, {{"format": "pt"}}) '
    'for f in Path("{folder}").glob("*.safetensors")]\''
)


@contextmanager
def without_report() -> Iterator[None]:
    """Keep transformers' table of missing keys out of the log within the context: `require_loaded` looks at them."""
    log = logging.getLogger("transformers.modeling_utils")
    log.addFilter(_no_table)
    try:
        yield
    finally:
        log.removeFilter(_no_table)


def _no_table(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def require_kind(config: PreTrainedConfig, kind: str, checkpoint: str | Path) -> None:
    """Raise if a model of another kind would be loaded as a causal LM, by its config."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    if kind != "causal-lm":
        return
    made_for = architectures(config)
    both_ways = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    other_head = made_for and not any(_may_be_causal(name) for name in made_for)
    encodes = getattr(config, "is_encoder_decoder", False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or both_ways or other_head or encodes:
        raise UserError(
            f"{checkpoint} is no causal LM",
            got=f"{', '.join(made_for) or 'no architecture'} (model_type {config.model_type})",
            expected="a causal language model: it reads from left to right, and has an output layer",
            fix="give the checkpoint of a language model, such as Llama's or a stage's other than reward",
        )


def _may_be_causal(name: str) -> bool:
    """Return whether a class name may be a causal LM's: LMHeadModel and bare models count, other heads do not."""
    return name.endswith(CAUSAL) or "For" not in name


def architectures(config: PreTrainedConfig) -> list[str]:
    """Return the class names that a config records; none if it records none."""
    found = config.architectures
    names = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return [name for name in names if isinstance(name, str)]


def require_loaded(
    model: PreTrainedModel, report: dict[str, Any], checkpoint: str | Path, *, new_head: bool = False
) -> None:
    """Raise if weights of a loaded model are random, do not fit, or are not finite; name those that are not used.

    Args:
        report: the loading info of transformers' `from_pretrained`.
        new_head: whether the model's head may be new, and another head in the file not used.
    """
    trunk = f"{model.base_model_prefix}."
    missing = sorted(key for key in report["missing_keys"] if not new_head or key.startswith(trunk))
    unexpected = sorted(key for key in report["unexpected_keys"] if not new_head or key.startswith(trunk))
    mismatched = sorted(report["mismatched_keys"])
    if missing or mismatched:
        raise _not_whole(model, missing, mismatched, unexpected, checkpoint)
    _require_numbers(model, checkpoint)
    if unexpected:
        logger.warning(
            "%s: %d tensors of its weights are not used: %s has no %s",
            *(checkpoint, len(unexpected), type(model).__name__, named(unexpected)),
        )


def _not_whole(
    model: PreTrainedModel, missing: list[str], mismatched: list[tuple], unexpected: list[str], checkpoint: str | Path
) -> UserError:
    shapes = [f"{key} has shape {list(found)}, not {list(wanted)}" for key, found, wanted in mismatched]
    got = [f"missing {named(missing)}"] * bool(missing) + ["; ".join(shapes[:LISTED])] * bool(shapes)
    got += [f"not used {named(unexpected)}"] * bool(unexpected)
    prefix = _prefix(missing, unexpected)
    fix = "copy or download the checkpoint again; config.json and weights have to come from one model"
    if prefix and Path(checkpoint).is_dir():
        fix = "remove the prefix: " + WITHOUT_PREFIX.format(prefix=prefix, folder=checkpoint)
    wrong = [*missing, *(key for key, *_ in mismatched)]
    if not any(key.startswith(f"{model.base_model_prefix}.") for key in wrong) and "Classification" in str(type(model)):
        return UserError(
            f"{checkpoint} is no reward model: its weights lack a score head of one output, which would be random",
            got="; ".join(got),
            expected=f"{named(wrong)} in its weights",
            fix=fix if prefix else "give the checkpoint of a reward stage, or of another model with one label",
        )
    return UserError(
        f"{checkpoint} lacks weights of the {type(model).__name__} that its config.json describes"
        if missing
        else f"{checkpoint} has weights of other shapes than its config.json describes",
        got="; ".join(got),
        expected="every weight of the model, in its shape: others would be random",
        fix=fix,
    )


def _prefix(missing: list[str], unexpected: list[str]) -> str | None:
    """Return the prefix that all missing names have in the file, such as `module.`; None if that is not so."""
    found = {key.removesuffix(missing[0]) for key in unexpected if missing and key.endswith(missing[0])}
    return next((one for one in found if {one + key for key in missing} <= set(unexpected)), None)


def _require_numbers(model: PreTrainedModel, checkpoint: str | Path) -> None:
    """Raise for weights that are NaN or infinite, or integers that only a quantisation gives a meaning."""
    from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_enabled

    quantised = getattr(model.config, "quantization_config", None) is not None
    if is_deepspeed_zero3_enabled() or is_fsdp_enabled():
        return  # this process may have no weights, or empty ones, until they are sharded
    parameters = dict(model.named_parameters())
    if broken := not_finite(parameters.items()):
        raise UserError(
            f"the weights of {checkpoint} are not finite",
            got=f"NaN or infinity in {named(broken)}",
            expected="numbers",
            fix="give a checkpoint from before the training diverged, or copy this one again",
        )
    folder = Path(checkpoint)
    types = {} if quantised or not folder.is_dir() else stored_types(folder)
    integers = {name: kind for name, kind in types.items() if kind in INTEGERS and name in parameters}
    if integers:
        name, kind = next(iter(integers.items()))
        raise UserError(
            f"{checkpoint} has integers for weights, without the quantisation that gives them a meaning",
            got=f"{name}: {'u' * kind.startswith('U')}int{kind[1:]}, and no quantization_config in config.json",
            expected="floating-point weights, or quantization_config",
            fix="give the model that is not quantised, or copy its config.json again",
        )


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity; integers and tensors without storage are left out."""
    import torch

    broken = []
    for name, tensor in tensors:
        if tensor.numel() == 0 or tensor.is_meta or tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            continue
        low, high = torch.aminmax(tensor.detach())  # NaN if there is a NaN; no copy of the tensor is made
        if not (torch.isfinite(low) and torch.isfinite(high)):
            broken.append(name)
    return broken


def named(keys: list[str]) -> str:
    """Return the first of several names, and how many more there are."""
    return ", ".join(keys[:LISTED]) + (f" and {len(keys) - LISTED} more" if len(keys) > LISTED else "")

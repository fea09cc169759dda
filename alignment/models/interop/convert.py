"""Conversion of checkpoints between transformers' own architectures and the GPT."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alignment.durable.manifest import new_checkpoint
from alignment.errors import UserError
from alignment.models.checkpoints import (
    ADAPTER_CONFIG,
    adapter_base,
    explained,
    is_adapter,
    require_checkpoint,
    require_sound,
)
from alignment.models.generation import agree_with_generation
from alignment.models.gpt import GPTConfig, GPTForCausalLM, GPTForSequenceClassification
from alignment.models.loading import load_config, load_tokenizer, load_trainable
from alignment.models.merge_in_place import merge_in_place
from alignment.models.vocabulary import require_rows

from .families import (
    FAMILIES,
    Misfit,
    export_misfits,
    from_gpt_config,
    import_misfits,
    left_behind,
    to_gpt_config,
)
from .other_readers import add_earlier_names, llama_cpp_pre_tokenizer
from .self_contained import HEADS, auto_map, code_files
from .weights import from_gpt_weights, to_gpt_weights

NATIVE_TARGETS = ("gpt2", "llama", "qwen3", "mixtral")
SELF_CONTAINED = "self-contained"
TARGETS = (*NATIVE_TARGETS, SELF_CONTAINED)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
# PEFT's task type of an adapter -> the class of its model, and its kind.
ADAPTED = {
    "CAUSAL_LM": (GPTForCausalLM, "causal-lm"),
    "SEQ_CLS": (GPTForSequenceClassification, "sequence-classification"),
}


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint.

    Attributes:
        folder: the new checkpoint.
        architecture: its class.
        auto_class: the Auto class of transformers that loads it.
        parameters: number of parameters; tied ones count once.
        has_tokenizer: whether the source had a tokenizer, which was then copied.
        left_behind: options that only training uses and that the new checkpoint cannot express.
        llama_cpp: llama.cpp's name of the tokenizer's pre-tokenizer, if the checkpoint is exported to an architecture
            that llama.cpp has.
    """

    folder: Path
    architecture: str
    auto_class: str
    parameters: int
    has_tokenizer: bool
    left_behind: dict[str, Any]
    llama_cpp: str | None = None

    def __str__(self) -> str:
        tokenizer = "with its tokenizer" if self.has_tokenizer else "without a tokenizer: the source has none"
        text = f"{self.folder}: {self.architecture}, {self.parameters:,} parameters, {tokenizer}"
        if self.left_behind:
            options = ", ".join(f"{name}={value}" for name, value in self.left_behind.items())
            text += f"\noptions dropped (only training uses them): {options}"
        if self.llama_cpp is not None:
            text += f"\npre-tokenizer for llama.cpp's converter: {self.llama_cpp} (see docs/interop.md)"
        return text


def import_checkpoint(source: str | Path, output_dir: str | Path) -> Conversion:
    """Convert a GPT-1, GPT-2, Llama, Qwen3 or Mixtral checkpoint of transformers to the GPT.

    Weights keep their values and dtype; tokenizer and generation config are copied.

    Args:
        source: folder of a full causal language model or of an adapter, which is merged; or a hub id.
        output_dir: a folder that is new or empty.

    Raises:
        UserError: the source is of another architecture, has options or weights that the GPT lacks, or the output
            folder is not empty.
    """
    output_dir = _free_folder(output_dir)
    theirs = _config(source)
    if theirs.model_type == GPTConfig.model_type:
        raise UserError(
            f"{source} already has this project's architecture",
            got=f"model_type {theirs.model_type!r}",
            expected="one of " + ", ".join(FAMILIES),
            fix="use it without conversion; `align export` converts in the other direction",
        )
    if misfits := import_misfits(theirs):
        raise _misfit_error(
            f"{source} has options that the GPT lacks",
            misfits,
            f"keep it as a {theirs.model_type} model: the stages train it without conversion",
        )
    tokenizer = _tokenizer(source)
    model = _merged(source, "causal-lm") if is_adapter(source) else _loaded(source, AutoModelForCausalLM)
    if tokenizer is not None:
        require_rows(model, tokenizer, str(source))
    theirs.tie_word_embeddings = model.config.tie_word_embeddings  # an adapter may have parted them
    config = to_gpt_config(theirs)
    tensors = to_gpt_weights(model.state_dict(), theirs.model_type, config.num_hidden_layers)
    ours = _built(config, tensors, model)
    return _written(ours, tokenizer, output_dir, left_behind(theirs, theirs.model_type))


def export_checkpoint(checkpoint: str | Path, target: str, output_dir: str | Path) -> Conversion:
    """Convert a GPT's checkpoint to one that loads without this project.

    Args:
        checkpoint: folder of a full model or of an adapter, which is merged; or a hub id.
        target: an architecture of transformers, or `self-contained`: the GPT with its code, for
            `trust_remote_code=True`, which keeps all options and heads.
        output_dir: a folder that is new or empty.

    Raises:
        UserError: the target is unknown or cannot express some of the model's options, which the error lists; the
            checkpoint is no GPT; or the output folder is not empty.
    """
    if target not in TARGETS:
        raise UserError(f"no target is called {target!r}", expected="one of " + ", ".join(TARGETS))
    output_dir = _free_folder(output_dir)
    config = _config(checkpoint)
    if config.model_type != GPTConfig.model_type:
        raise UserError(
            f"{checkpoint} does not have this project's architecture",
            got=f"model_type {config.model_type!r}",
            expected=f"model_type {GPTConfig.model_type!r}",
            fix="convert it with `align import` first",
        )
    model_class, load = _how_to_load(checkpoint, config)
    if target == SELF_CONTAINED:
        return _export_self_contained(load(), _tokenizer(checkpoint), output_dir)
    _require_fit(checkpoint, config, model_class, target)
    tokenizer, model = _tokenizer(checkpoint), load()
    config.tie_word_embeddings = model.config.tie_word_embeddings  # an adapter may have parted them
    tensors = from_gpt_weights(model.state_dict(), target, config.num_hidden_layers)
    theirs = _built(from_gpt_config(config, target), tensors, model)
    done = _written(theirs, tokenizer, output_dir, left_behind(config, target), exported=True)
    return replace(done, llama_cpp=None if tokenizer is None else llama_cpp_pre_tokenizer(tokenizer))


def _export_self_contained(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, output_dir: Path
) -> Conversion:
    model.config.auto_map = auto_map()
    return _written(model, tokenizer, output_dir, {}, code_files(), exported=True)


def _free_folder(output_dir: str | Path) -> Path:
    """Return the output folder's path, if the folder is new or empty; otherwise raise."""
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise UserError(
            f"{output_dir} exists and is not empty" if output_dir.is_dir() else f"{output_dir} is a file",
            expected="a folder that is new or empty",
            fix="give another --output_dir; nothing has been overwritten",
        )
    return output_dir


def _config(checkpoint: str | Path) -> PreTrainedConfig:
    """Load the config of a checkpoint (for an adapter, its base's), if this module can convert its model type."""
    require_checkpoint(checkpoint)
    require_sound(checkpoint)
    whole = adapter_base(checkpoint) if is_adapter(checkpoint) else checkpoint
    with explained(whole):
        model_type = PreTrainedConfig.get_config_dict(whole)[0].get("model_type")
        if model_type not in FAMILIES and model_type != GPTConfig.model_type:
            raise UserError(
                f"the architecture of {whole} cannot be converted",
                got=f"model_type {model_type!r}",
                expected="one of " + ", ".join((*FAMILIES, GPTConfig.model_type)),
            )
    return load_config(whole)


def _tokenizer(checkpoint: str | Path) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer; None if a folder has none, for which transformers may construct an empty one."""
    folder = Path(checkpoint)
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    return load_tokenizer(checkpoint)


def _how_to_load(checkpoint: str | Path, config: GPTConfig) -> tuple[type, Callable[[], PreTrainedModel]]:
    """Return the class of a GPT's checkpoint, and a function that loads it."""
    if is_adapter(checkpoint):
        task = json.loads((Path(checkpoint) / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("task_type")
        if task not in ADAPTED:
            expected = "one of " + ", ".join(ADAPTED)
            raise UserError(
                f"{checkpoint} is an adapter for an unsupported task", got=f"task_type {task!r}", expected=expected
            )
        model_class, kind = ADAPTED[task]
        return model_class, lambda: _merged(checkpoint, kind)
    known = {cls.__name__: cls for cls in HEADS.values()}
    name = (config.architectures or [GPTForCausalLM.__name__])[0]
    if name not in known:
        raise UserError(f"the class of {checkpoint} is unknown", got=name, expected="one of " + ", ".join(known))
    return known[name], lambda: _loaded(checkpoint, known[name])


def _merged(adapter: str | Path, kind: str) -> PreTrainedModel:
    return merge_in_place(load_trainable(adapter, kind, dtype="auto"))


def _loaded(checkpoint: str | Path, model_class: type[Any]) -> PreTrainedModel:
    """Load a full model in its saved dtype; raise if weights are missing from the checkpoint or unexpected."""
    options = {"trust_remote_code": False, "use_safetensors": True}
    model, report = model_class.from_pretrained(checkpoint, dtype="auto", output_loading_info=True, **options)
    odd = {kind: sorted(report[f"{kind}_keys"]) for kind in ("missing", "unexpected") if report[f"{kind}_keys"]}
    if odd:
        raise UserError(
            f"the weights of {checkpoint} do not match its architecture",
            got="; ".join(f"{kind}: {', '.join(map(str, names[:6]))}" for kind, names in odd.items()),
            expected=f"exactly the weights of a {type(model).__name__}",
        )
    return model


def _require_fit(checkpoint: str | Path, config: GPTConfig, model_class: type, target: str) -> None:
    if model_class is not GPTForCausalLM:
        raise UserError(
            f"only causal language models can be converted to {target}",
            got=model_class.__name__,
            expected=GPTForCausalLM.__name__,
            fix=f"use --to {SELF_CONTAINED}, which supports all heads",
        )
    if misfits := export_misfits(config, target):
        fitting = [other for other in NATIVE_TARGETS if not export_misfits(config, other)]
        fix = "--to " + " or ".join([*fitting, SELF_CONTAINED])
        raise _misfit_error(f"{checkpoint} has options that {target} lacks", misfits, fix)


def _misfit_error(problem: str, misfits: list[Misfit], fix: str) -> UserError:
    got = ", ".join(f"{misfit.option}={_shown(misfit.has)}" for misfit in misfits)
    expected = ", ".join(f"{misfit.option}={_shown(misfit.expected)}" for misfit in misfits)
    return UserError(problem, got=got, expected=expected, fix=fix)


def _shown(value: Any) -> str:
    """Format a value for a message; of a list with an entry per layer, only the distinct values."""
    return "/".join(sorted(set(value))) if isinstance(value, list) else str(value)


def _built(config: PreTrainedConfig, tensors: dict[str, torch.Tensor], source: PreTrainedModel) -> PreTrainedModel:
    """Build a causal language model around the given tensors, to save it; names and shapes that do not match raise.

    It is built on the meta device, so that no memory is allocated twice. Its buffers stay there: it cannot run.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(tensors, strict=True, assign=True)
    model.tie_weights()
    model.generation_config = source.generation_config
    agree_with_generation(model)
    return model


def _written(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    output_dir: Path,
    lost: dict[str, Any],
    code: dict[str, str] | None = None,
    exported: bool = False,
) -> Conversion:
    with new_checkpoint(output_dir) as folder:
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        for name, source in (code or {}).items():
            (folder / name).write_text(source, encoding="utf-8")
        if exported:
            add_earlier_names(folder)
    name = type(model).__name__
    auto_class = next((auto for auto, cls in HEADS.items() if cls.__name__ == name), "AutoModelForCausalLM")
    return Conversion(output_dir, name, auto_class, model.num_parameters(), tokenizer is not None, lost)

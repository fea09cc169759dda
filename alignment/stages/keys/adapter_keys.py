"""The recipe keys of an adapter: values that are refused before anything is loaded, and a trial on an empty model."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from trl import ModelConfig, get_peft_config

from alignment.errors import UserError, raise_all, unknown
from alignment.models.adapters import require_targets
from alignment.models.checkpoints import REFUSALS, is_full_memory, summary
from alignment.models.loading import load_config
from alignment.models.vocabulary import is_named, is_tied, trained_rows
from alignment.stages import CLASSIFIER

if TYPE_CHECKING:
    from alignment.stages.shared.lora import ModelArguments

LARGEST_RANK = 16384  # the width of the largest open models; a matrix has no more ranks than columns
DTYPES = ("auto", "bfloat16", "float16", "float32")
STORAGE = ("uint8", "float16", "bfloat16", "float32")
TASKS = ("CAUSAL_LM", "SEQ_CLS")
OWN_TASK = "CAUSAL_LM"  # TRL's default, with which a stage takes the task of its own kind
HEAD = "score"  # a classifier's head, which is trained as a whole


def impossible_values(keys: ModelConfig) -> Iterator[UserError]:
    """Yield an error for each value that PEFT or transformers would only stumble over while training, or ignore."""
    if not 1 <= keys.lora_r <= LARGEST_RANK:
        yield UserError("lora_r is no rank", got=keys.lora_r, expected=f"1 to {LARGEST_RANK}", fix="for example 16")
    if not keys.lora_alpha > 0:
        yield UserError(
            "lora_alpha is too small: the adapter would have no effect, or the opposite one",
            got=keys.lora_alpha,
            expected="more than 0",
            fix="for example twice lora_r",
        )
    if not 0 <= keys.lora_dropout < 1:
        yield UserError("lora_dropout is no share", got=keys.lora_dropout, expected="0 or more, and less than 1")
    if keys.lora_target_modules is not None and not keys.lora_target_modules:
        yield UserError(
            "lora_target_modules names no layer",
            got=keys.lora_target_modules,
            expected="names of layers, all-linear, or a regular expression",
            fix="leave it out for all linear layers except the output layer",
        )
    if keys.lora_task_type not in TASKS:
        yield unknown("lora_task_type", str(keys.lora_task_type), TASKS)
    if keys.dtype is not None and keys.dtype not in DTYPES:
        yield unknown("dtype", str(keys.dtype), DTYPES)
    if keys.attn_implementation == "flex_attention" and not torch.cuda.is_available():
        yield UserError(
            "flex attention cannot be trained on a CPU",
            got="no CUDA device",
            fix="attn_implementation: sdpa",
        )
    if keys.bnb_4bit_quant_type not in ("fp4", "nf4"):
        yield unknown("bnb_4bit_quant_type", str(keys.bnb_4bit_quant_type), ("fp4", "nf4"))
    if keys.bnb_4bit_quant_storage is not None and keys.bnb_4bit_quant_storage not in STORAGE:
        yield unknown("bnb_4bit_quant_storage", str(keys.bnb_4bit_quant_storage), STORAGE)
    ratio = getattr(keys, "loraplus_lr_ratio", None)
    if ratio is not None and not (math.isfinite(ratio) and ratio > 0):
        yield UserError("loraplus_lr_ratio is no multiple", got=ratio, expected="a finite number, more than 0")


def lora_config(model: PreTrainedModel, keys: "ModelArguments", kind: str, tokens: list[int]) -> LoraConfig:
    """Return PEFT's config of the adapter that a recipe describes.

    Args:
        kind: causal-lm or sequence-classification.
        tokens: ids of tokens whose rows of the embeddings a causal LM's adapter trains.
    """
    config = get_peft_config(keys)
    config.target_modules = config.target_modules or "all-linear"
    if keys.init_lora_weights is not None:
        config.init_lora_weights = keys.init_lora_weights
    saved = keys.lora_modules_to_save or []
    if kind == CLASSIFIER:
        config.task_type = "SEQ_CLS"
        config.modules_to_save = [HEAD, *(name for name in saved if name != HEAD)]
    elif tokens:
        config.trainable_token_indices = trained_rows(model, tokens, saved)
    # Otherwise PEFT would train a copy of one of two tied layers, and a merged model would lose it (peft#2777).
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    paths = [name for name, module in model.named_modules() if any(module is end for end in ends)]
    config.ensure_weight_tying = is_tied(model) and any(is_named(path, saved) for path in paths)
    return config


def try_adapter(keys: "ModelArguments", kind: str) -> None:
    """Put the adapter of a recipe on its model without weights, and raise for what does not go with the model."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        config = load_config(keys.model_name_or_path)
        if kind == CLASSIFIER:
            config.num_labels = 1
        auto = AutoModelForSequenceClassification if kind == CLASSIFIER else AutoModelForCausalLM
        try:
            model = auto.from_config(config)
        except REFUSALS:
            return  # the model is at fault, and named when it is loaded
        require_targets(model, keys.lora_target_modules or "all-linear")
        raise_all([*_not_in(model, keys)])
        adapter = lora_config(model, keys, kind, [0])
        if str(adapter.init_lora_weights).startswith("pissa"):
            adapter.init_lora_weights = True  # PiSSA decomposes weights, and here are none
        try:
            adapted = get_peft_model(model, adapter)
        except REFUSALS as error:
            # A layer both of whose ends get an adapter is refused below, with its name.
            if is_full_memory(error):
                raise
            raise _refused(keys, error) from error
    ends = [adapted.get_input_embeddings(), adapted.get_output_embeddings()]
    if any(isinstance(end, BaseTunerLayer) for end in ends):
        raise _refused(keys, None)


def _not_in(model: PreTrainedModel, keys: "ModelArguments") -> Iterator[UserError]:
    """Yield errors for names of modules and parameters that a model does not have, which PEFT ignores."""
    modules = [name for name, _ in model.named_modules()]
    if absent := [
        name for name in keys.lora_modules_to_save or [] if not any(is_named(one, [name]) for one in modules)
    ]:
        yield UserError(
            "lora_modules_to_save names modules that the model does not have",
            got=", ".join(absent),
            expected="names of its modules: " + ", ".join(sorted({one.rpartition(".")[2] for one in modules if one})),
            fix="correct or remove the names",
        )
    parameters = [name for name, _ in model.named_parameters()]
    if absent := [
        name for name in keys.lora_target_parameters or [] if not any(is_named(one, [name]) for one in parameters)
    ]:
        yield UserError(
            "lora_target_parameters names parameters that the model does not have",
            got=", ".join(absent),
            expected="ends of names such as " + ", ".join(parameters[1:4]),
            fix="correct or remove the names",
        )


def _refused(keys: "ModelArguments", error: Exception | None) -> UserError:
    if error is None or "trainable_token_indices cannot be applied" in str(error):
        return UserError(
            "lora_target_modules names the input embeddings or the output layer, which get no low-rank adapter here",
            got=keys.lora_target_modules,
            expected="layers between the two",
            fix="name them in lora_modules_to_save, which trains them as a whole; the rows of the chat "
            "template's tokens are trained in any case",
        )
    named = {name: getattr(keys, name) for name in ("lora_target_modules", "lora_modules_to_save", "init_lora_weights")}
    return UserError(
        "PEFT does not take the adapter that the recipe describes",
        got=f"{summary(error)} ({', '.join(f'{name}: {value}' for name, value in named.items() if value is not None)})",
        expected="lora_target_modules: linear layers; lora_r even with init_lora_weights: orthogonal",
        fix="omit lora_target_modules for all linear layers except the output layer",
    )

"""Loading checkpoints of any kind this project writes: full models, and adapters with the base they sit on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError
from alignment.models.adapters import frozen_stack, with_adapter
from alignment.models.chain import read_chain
from alignment.models.checkpoints import (
    adapter_base,
    adapter_config,
    adapter_folder,
    explained,
    is_adapter,
    require_checkpoint,
    require_sound,
)
from alignment.models.quantization import quantization_of, quantization_options
from alignment.models.vocabulary import make_room

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

AutoClass = type[Any]  # one of transformers' Auto classes, which share no public base
REFERENCE_ADAPTER = "ref"  # the name by which TRL's DPOTrainer knows a reference adapter too


def load_config(checkpoint: str | Path) -> PreTrainedConfig:
    """The config of a checkpoint (folder or hub id); of an adapter its base's, with the rows that it was grown to."""
    from transformers import AutoConfig

    import alignment  # noqa: F401  (registers the architecture)

    require_checkpoint(checkpoint)
    whole = adapter_base(checkpoint) if is_adapter(checkpoint) else checkpoint
    try:
        with explained(whole):
            config = AutoConfig.from_pretrained(whole, trust_remote_code=False)
    except ValueError as error:  # what transformers raises for a model type that it does not know
        raise UserError(
            f"{whole} is of an architecture that transformers does not know",
            got=str(error).strip().splitlines()[0],
            fix="check model_type in its config.json",
        ) from error
    own = adapter_config(checkpoint)
    chain = read_chain(own.parent) if own else None
    if chain and chain.grown_to:
        config.get_text_config().vocab_size = chain.grown_to
    return config


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
            expected="a sequence-classification model",
            fix="give the checkpoint of a reward stage",
        )


def load_tokenizer(checkpoint: str | Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    require_sound(checkpoint, weights=False)
    with explained(checkpoint):
        return AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)


def load_causal_lm(checkpoint: str | Path, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
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
    checkpoint: str | Path, kind: str, *, dequantize: bool = False, **options: Any
) -> PreTrainedModel | PeftModel:
    """A model to train on: a full one, or a PeftModel whose adapter is trainable.

    A sequence classifier may start from a causal LM's checkpoint: its `score` head is then new, and an adapter of the
    causal LM goes on as the classifier's.

    Args:
        kind: causal-lm or sequence-classification.
        dequantize: load the quantised base of an adapter with the weights that it computes with, in the type of
            options["dtype"].
    """
    require_checkpoint(checkpoint)
    auto, options = _auto_class(kind, options)
    if not is_adapter(checkpoint):
        require_sound(checkpoint)
        with explained(checkpoint):
            return auto.from_pretrained(checkpoint, **options)
    base, base_checkpoint, folder = _base_model(checkpoint, auto, options, dequantize)
    model = with_adapter(base, folder, kind)
    # Where the base was found beside the adapter, what is trained further must name the place where it is.
    model.peft_config[model.active_adapter].base_model_name_or_path = base_checkpoint
    return model


def load_stack(checkpoint: str | Path, kind: str, **options: Any) -> PeftModel:
    """A model under all adapters of a chain, none of which is trainable: for a new one to stand over them."""
    base, base_checkpoint, folder = _base_model(checkpoint, *_auto_class(kind, options))
    chain = read_chain(folder)
    folders = [folder / link.folder for link in chain.links] if chain else [folder]
    model = frozen_stack(base, folders, kind)
    for config in model.peft_config.values():
        config.base_model_name_or_path = base_checkpoint
    return model


def _auto_class(kind: str, options: dict) -> tuple[AutoClass, dict]:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    import alignment  # noqa: F401  (registers the architecture)

    # Said outright: left out, transformers asks at the terminal whether to run a checkpoint's code, and reads pickles.
    options = {**options, "trust_remote_code": False, "use_safetensors": True}
    if kind == "sequence-classification":
        return AutoModelForSequenceClassification, {"num_labels": 1, **options}
    return AutoModelForCausalLM, options


def _base_model(
    checkpoint: str | Path, auto: AutoClass, options: dict, dequantize: bool = False
) -> tuple[PreTrainedModel, str, Path]:
    """The base of an adapter, which is the one it was trained on; where it is; and the adapter's own folder.

    A base is made to stop where the adapter learned to. One that was quantised is quantised as it was then, whatever
    the options say: otherwise it would be another model.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    require_sound(checkpoint)
    base_checkpoint, folder = adapter_base(checkpoint), adapter_folder(checkpoint)
    chain = read_chain(folder)
    quantised = quantization_options(chain.quantization if chain else None, str(checkpoint))
    with explained(base_checkpoint):
        base = auto.from_pretrained(base_checkpoint, **options | quantised)
    if chain and chain.grown_to:
        make_room(base, chain.grown_to)
    if auto is AutoModelForCausalLM and (folder / "generation_config.json").is_file():
        base.generation_config = GenerationConfig.from_pretrained(folder)
    if quantised and dequantize:
        base = base.dequantize().to(getattr(torch, options["dtype"]))
    return base, base_checkpoint, folder

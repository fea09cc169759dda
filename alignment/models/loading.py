"""Loading of checkpoints: full models, and adapters with their base."""

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
REFERENCE_ADAPTER = "ref"  # as TRL's DPOTrainer names a reference adapter


def load_config(checkpoint: str | Path) -> PreTrainedConfig:
    """Load the config of a checkpoint (folder or hub id); for an adapter, its base's with the grown vocabulary size."""
    from transformers import AutoConfig

    import alignment  # noqa: F401  (registers the architecture)

    require_checkpoint(checkpoint)
    whole = adapter_base(checkpoint) if is_adapter(checkpoint) else checkpoint
    try:
        with explained(whole):
            config = AutoConfig.from_pretrained(whole, trust_remote_code=False)
    except ValueError as error:  # raised by transformers for an unknown model type
        raise UserError(
            f"transformers does not know the architecture of {whole}",
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
            f"{checkpoint} is no reward model: its score head would be random",
            got=", ".join(made_for) or "a config that names no architecture",
            expected="a sequence-classification model",
            fix="give the checkpoint of a reward stage",
        )


def load_tokenizer(checkpoint: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint (folder or hub id)."""
    from transformers import AutoTokenizer

    require_sound(checkpoint, weights=False)
    with explained(checkpoint):
        return AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)


def load_causal_lm(checkpoint: str | Path, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal LM and its tokenizer for inference; adapters are merged into their base unless it is quantised.

    Args:
        checkpoint: folder of a full model or an adapter, or hub id.
        options: keyword arguments of `from_pretrained`.
    """
    model = load_trainable(checkpoint, "causal-lm", **options)
    if is_adapter(checkpoint) and quantization_of(model.get_base_model()) is None:
        model = model.merge_and_unload()
    return model.eval(), load_tokenizer(checkpoint)


def load_trainable(
    checkpoint: str | Path, kind: str, *, dequantize: bool = False, **options: Any
) -> PreTrainedModel | PeftModel:
    """Load a model for training: a full model, or a PeftModel with a trainable adapter.

    A sequence classifier may start from a causal LM's checkpoint: its `score` head is then new, and the causal LM's
    adapter becomes the classifier's.

    Args:
        kind: causal-lm or sequence-classification.
        dequantize: dequantise the quantised base of an adapter, to options["dtype"].
    """
    require_checkpoint(checkpoint)
    auto, options = _auto_class(kind, options)
    if not is_adapter(checkpoint):
        require_sound(checkpoint)
        with explained(checkpoint):
            return auto.from_pretrained(checkpoint, **options)
    base, base_checkpoint, folder = _base_model(checkpoint, auto, options, dequantize)
    model = with_adapter(base, folder, kind)
    # The base may have been found elsewhere than recorded: adapters trained from here on record its present place.
    model.peft_config[model.active_adapter].base_model_name_or_path = base_checkpoint
    return model


def load_stack(checkpoint: str | Path, kind: str, **options: Any) -> PeftModel:
    """Load a model with all adapters of a chain, all frozen, as the base of a new adapter."""
    base, base_checkpoint, folder = _base_model(checkpoint, *_auto_class(kind, options))
    chain = read_chain(folder)
    folders = [folder / link.folder for link in chain.links] if chain else [folder]
    model = frozen_stack(base, folders, kind)
    for config in model.peft_config.values():
        config.base_model_name_or_path = base_checkpoint
    return model


def _auto_class(kind: str, options: dict) -> tuple[AutoClass, dict]:
    """Return the Auto class for a kind of model, and the options to load it with."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    import alignment  # noqa: F401  (registers the architecture)

    # By default transformers asks at the terminal whether to run a checkpoint's code, and reads pickles.
    options = {**options, "trust_remote_code": False, "use_safetensors": True}
    if kind == "sequence-classification":
        return AutoModelForSequenceClassification, {"num_labels": 1, **options}
    return AutoModelForCausalLM, options


def _base_model(
    checkpoint: str | Path, auto: AutoClass, options: dict, dequantize: bool = False
) -> tuple[PreTrainedModel, str, Path]:
    """Load the base that an adapter was trained on; return it, its folder or hub id, and the adapter's own folder.

    The base gets the adapter's generation config, so that replies end as the adapter learned. A base that was quantised
    in training is quantised the same way, whatever the options say: otherwise it would be another model.
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

"""Loading of checkpoints: full models, and adapters with their base."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.durable.read import COPY_AGAIN, read_json
from alignment.errors import UserError
from alignment.models.adapters import fitted, frozen_stack, with_adapter
from alignment.models.chain import read_chain
from alignment.models.checkpoints import (
    adapter_base,
    adapter_config,
    adapter_folder,
    explained,
    is_adapter,
    require_checkpoint,
    require_sound,
    trained_on,
)
from alignment.models.examined.adapter_settings import load_adapter_settings, named_base, require_task
from alignment.models.examined.config_sizes import require_countable
from alignment.models.examined.folder_contents import has_tokenizer, listed
from alignment.models.examined.generation_settings import require_readable, require_usable
from alignment.models.examined.loaded_weights import architectures, require_kind, require_loaded, without_report
from alignment.models.examined.weight_files import ADAPTER, require_weights
from alignment.models.merge_in_place import TOLERANCE, change_of, logits_of, merge_in_place
from alignment.models.quantization import quantization_of, quantization_options, require_method
from alignment.models.vocabulary import make_room, require_rows

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

AutoClass = type[Any]  # one of transformers' Auto classes, which share no public base
TRIED = 8  # tokens that logits are compared on, few because large models are loaded on the CPU
REFERENCE_ADAPTER = "ref"  # as TRL's DPOTrainer names a reference adapter
# What transformers says of a config whose model_type it does not know.
UNKNOWN_MODEL = ("model type", "model_type", "Unrecognized model")

logger = logging.getLogger(__name__)


def load_config(checkpoint: str | Path, revision: str | None = None) -> PreTrainedConfig:
    """Load the config of a checkpoint (folder or hub id); for an adapter, its base's with the grown vocabulary size."""
    from transformers import AutoConfig

    import alignment  # noqa: F401  (registers the architecture)

    require_checkpoint(checkpoint)
    whole = adapter_base(checkpoint) if is_adapter(checkpoint) else checkpoint
    file = Path(whole) / "config.json"
    if whole != checkpoint:
        require_checkpoint(whole)
    if file.is_file():
        require_countable(read_json(file, COPY_AGAIN), file)
    try:
        with explained(whole):
            config = AutoConfig.from_pretrained(whole, revision=revision, trust_remote_code=False)
    except UserError as error:
        if not any(words in str(error.__cause__) for words in UNKNOWN_MODEL):
            raise
        raise UserError(
            f"transformers does not know the architecture of {whole}",
            got=str(error.got),
            fix="check model_type in its config.json",
        ) from error.__cause__
    own = adapter_config(checkpoint)
    chain = read_chain(own.parent) if own else None
    if chain and chain.grown_to:
        config.get_text_config().vocab_size = chain.grown_to
    return config


def require_reward_model(checkpoint: str | Path, fix: str = "give the checkpoint of a reward stage") -> None:
    """Raise for a model that is not made to score; whether its score head is there shows when it is loaded."""
    require_checkpoint(checkpoint)
    if is_adapter(checkpoint):
        task = load_adapter_settings(checkpoint).task_type
        made_for = [task or "an adapter that names no task"]
    else:
        made_for = architectures(load_config(checkpoint))
    if not any("SequenceClassification" in name or name == "SEQ_CLS" for name in made_for):
        raise UserError(
            f"{checkpoint} is no reward model: its score head would be random",
            got=", ".join(made_for) or "a config that names no architecture",
            expected="a sequence-classification model",
            fix=fix,
        )


def load_tokenizer(checkpoint: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint (folder or hub id); an adapter's without files of its own is its base's."""
    from transformers import AutoTokenizer

    require_sound(checkpoint, weights=False)
    folder = Path(checkpoint)
    if folder.is_dir() and not has_tokenizer(folder):
        if is_adapter(folder):
            base = adapter_base(folder)
            logger.warning("%s has no tokenizer: that of its base %s is used", checkpoint, base)
            return load_tokenizer(base)
        raise _without_tokenizer(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            read_json(folder / name, COPY_AGAIN)
    try:
        with explained(checkpoint, "the tokenizer of "):
            tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    except Exception as error:
        if type(error) is not Exception:  # what the library `tokenizers` raises for a file of another form
            raise
        raise UserError(
            f"the tokenizer of {checkpoint} is damaged", got=str(error).splitlines()[0], fix=COPY_AGAIN
        ) from error
    if len(tokenizer) == 0:  # made from the config's class alone
        raise _without_tokenizer(folder)
    if not isinstance(tokenizer.model_max_length, int | float):
        raise UserError(
            f"the tokenizer of {checkpoint} is damaged",
            got=f"model_max_length: {tokenizer.model_max_length!r}",
            expected="a number",
            fix="correct tokenizer_config.json, or copy it again",
        )
    return tokenizer


def _without_tokenizer(folder: Path) -> UserError:
    return UserError(
        f"{folder} has no tokenizer",
        got=listed(folder) if folder.is_dir() else "no vocabulary",
        expected="tokenizer.json with tokenizer_config.json, or the vocabulary of an older tokenizer",
        fix="copy the tokenizer's files of the model that it was trained from into the folder",
    )


def load_causal_lm(checkpoint: str | Path, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal LM and its tokenizer for inference.

    Adapters are merged into their base, which is faster, unless it is quantised or merging changes the logits.

    Args:
        checkpoint: folder of a full model or an adapter, or hub id.
        options: keyword arguments of `from_pretrained`.
    """
    model = load_trainable(checkpoint, "causal-lm", **options)
    if is_adapter(checkpoint) and quantization_of(model.get_base_model()) is None:
        expected, dtype = logits_of(model.eval(), TRIED), str(model.dtype).removeprefix("torch.")
        with fitted(checkpoint):
            model = merge_in_place(model)
        difference, largest = change_of(logits_of(model, TRIED), expected)
        if not difference <= TOLERANCE.get(dtype, TOLERANCE["bfloat16"]) * largest:
            logger.warning("%s: its adapter is kept apart, as merging it into its base changes the logits", checkpoint)
            model = load_trainable(checkpoint, "causal-lm", **options)
    tokenizer = load_tokenizer(checkpoint)
    require_rows(model, tokenizer, str(checkpoint))
    return model.eval(), tokenizer


def load_trainable(
    checkpoint: str | Path,
    kind: str,
    *,
    dequantize: bool = False,
    base: PreTrainedModel | None = None,
    **options: Any,
) -> PreTrainedModel | PeftModel:
    """Load a model for training: a full model, or a PeftModel with a trainable adapter.

    A sequence classifier may start from a causal LM's checkpoint: its `score` head is then new, and the causal LM's
    adapter becomes the classifier's.

    Args:
        kind: causal-lm or sequence-classification.
        dequantize: dequantise the quantised base of an adapter, to options["dtype"].
        base: the base of an adapter, already loaded: the adapter is put into it. Not for a quantised base.
    """
    require_checkpoint(checkpoint)
    if not is_adapter(checkpoint):
        require_sound(checkpoint)
        return _whole_model(checkpoint, kind, options)
    whole, base_checkpoint, folder = _base_model(checkpoint, kind, options, dequantize, base)
    model = with_adapter(whole, folder, kind)
    # The base may have been found elsewhere than recorded: adapters trained from here on record its present place.
    model.peft_config[model.active_adapter].base_model_name_or_path = base_checkpoint
    return model


def load_stack(checkpoint: str | Path, kind: str, **options: Any) -> PeftModel:
    """Load a model with all adapters of a chain, all frozen, as the base of a new adapter."""
    base, base_checkpoint, folder = _base_model(checkpoint, kind, options)
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


def _whole_model(checkpoint: str | Path, kind: str, options: dict) -> PreTrainedModel:
    """Load a full model of a kind, with every weight from its files; only a new classifier's head may be random."""
    auto, options = _auto_class(kind, options)
    config = load_config(checkpoint, options.get("revision"))
    require_kind(config, kind, checkpoint)
    require_method(config, checkpoint)
    if Path(checkpoint).is_dir():
        require_readable(Path(checkpoint))
        require_weights(Path(checkpoint))
    with explained(checkpoint), without_report():
        model, report = auto.from_pretrained(
            checkpoint, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    classifies = any("SequenceClassification" in name for name in architectures(config))
    new_head = kind == "sequence-classification" and not classifies
    require_loaded(model, report, checkpoint, new_head=new_head)
    if getattr(model, "generation_config", None) is not None:
        require_usable(model.generation_config, checkpoint)
    return model


def _base_model(
    checkpoint: str | Path, kind: str, options: dict, dequantize: bool = False, loaded: PreTrainedModel | None = None
) -> tuple[PreTrainedModel, str, Path]:
    """Load the base that an adapter was trained on; return it, its folder or hub id, and the adapter's own folder.

    A base that is already loaded is taken instead of being loaded.

    The base gets the adapter's generation config, so that replies end as the adapter learned. A base that was quantised
    in training is quantised the same way, whatever the options say: otherwise it would be another model.
    """
    import torch
    from transformers import GenerationConfig

    require_sound(checkpoint)
    base_checkpoint, folder = adapter_base(checkpoint), adapter_folder(checkpoint)
    require_readable(folder)
    recorded = adapter_config(checkpoint)
    places = [] if recorded is None else [Path(named_base(recorded)), folder / named_base(recorded)]
    chain = read_chain(folder)
    if Path(base_checkpoint).resolve() not in [place.resolve() for place in places] and not (
        trained_on(checkpoint) or (chain and chain.base_digest)
    ):
        logger.warning("%s: its base %s is not there; %s is used", checkpoint, places[0], base_checkpoint)
    require_task(load_adapter_settings(folder), kind, checkpoint)
    require_weights(folder, ADAPTER)
    quantised = quantization_options(chain.quantization if chain else None, str(checkpoint))
    base = loaded if loaded is not None else _whole_model(base_checkpoint, kind, options | quantised)
    if chain and chain.grown_to:
        make_room(base, chain.grown_to)
    if kind == "causal-lm" and (folder / "generation_config.json").is_file():
        with explained(folder):
            base.generation_config = GenerationConfig.from_pretrained(folder)
        require_usable(base.generation_config, folder)
    if quantised and dequantize:
        base = base.dequantize().to(getattr(torch, options["dtype"]))
    return base, base_checkpoint, folder

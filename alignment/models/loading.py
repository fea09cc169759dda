"""Loading checkpoints of any kind this project writes: full models, and adapters with the base they sit on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UserError
from alignment.models.checkpoints import (
    adapter_base,
    adapter_config,
    explained,
    is_adapter,
    require_checkpoint,
    require_sound,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

REFERENCE_ADAPTER = "ref"  # the name by which TRL's DPOTrainer knows a reference adapter too


def load_config(checkpoint: str | Path) -> PreTrainedConfig:
    """The config of a checkpoint (folder or hub id); of an adapter its base's."""
    from transformers import AutoConfig

    import alignment  # noqa: F401  (registers the architecture)

    require_checkpoint(checkpoint)
    whole = adapter_base(checkpoint) if is_adapter(checkpoint) else checkpoint
    try:
        with explained(whole):
            return AutoConfig.from_pretrained(whole, trust_remote_code=False)
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

    require_sound(checkpoint, weights=False)
    with explained(checkpoint):
        return AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)


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
    require_sound(checkpoint)
    if kind == "sequence-classification":
        auto, options = AutoModelForSequenceClassification, {"num_labels": 1, **options}
    else:
        auto = AutoModelForCausalLM
    # Said outright: left out, transformers asks at the terminal whether to run a checkpoint's code, and reads pickles.
    options = {**options, "trust_remote_code": False, "use_safetensors": True}
    if not is_adapter(checkpoint):
        with explained(checkpoint):
            return auto.from_pretrained(checkpoint, **options)
    base_checkpoint = adapter_base(checkpoint)
    with explained(base_checkpoint):
        base = auto.from_pretrained(base_checkpoint, **options)
    if kind == "causal-lm" and (adapter_config(checkpoint).parent / "generation_config.json").is_file():
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

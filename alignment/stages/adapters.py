"""LoRA in the stages: which adapter is trained, on which base."""

import logging

from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import ModelConfig, get_peft_config

from alignment.models.loading import REFERENCE_ADAPTER, copy_adapter

logger = logging.getLogger(__name__)


def new_adapter(
    model: PreTrainedModel | PeftModel, model_args: ModelConfig, tokenizer: PreTrainedTokenizerBase, kind: str
) -> LoraConfig | None:
    """The config of the adapter to add: none without use_peft, and none where the parent's adapter goes on.

    Args:
        kind: causal-lm or sequence-classification.
    """
    if isinstance(model, PeftModel):
        logger.info("the parent is an adapter: it is trained further, on its own base")
        return None
    if not model_args.use_peft:
        return None
    config = get_peft_config(model_args)
    config.target_modules = config.target_modules or "all-linear"
    if kind == "sequence-classification":
        config.task_type, config.modules_to_save = "SEQ_CLS", ["score"]
    elif config.trainable_token_indices is None:
        config.trainable_token_indices = template_token_ids(tokenizer)
    return config


def expose_head_bias(model: PreTrainedModel | PeftModel) -> None:
    """Let an output layer whose tokens are trained answer for its missing bias.

    TRL reads `weight` and `bias` of the output layer. PEFT's wrapper around tied embeddings with trainable tokens gives
    the merged weight, but raises for the bias, which no tied embedding has.
    """
    head = model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.register_parameter("bias", None)


def complete_reference(model: PreTrainedModel | PeftModel) -> None:
    """Make TRL's reference adapter the whole copy that it is meant to be.

    Where a policy's adapter goes on, DPOTrainer copies LoRA's matrices into an adapter `ref`, but not the trained
    tokens (their parameters end with the adapter's name): the reference would be another model than the policy.
    """
    if isinstance(model, PeftModel) and REFERENCE_ADAPTER in model.peft_config:
        copy_adapter(model, model.active_adapter, REFERENCE_ADAPTER)


def template_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """The special tokens that the chat template writes.

    A base model has never seen them: their embeddings are noise, which low-rank updates of the other layers cannot
    mend (peft#334), so their rows are trained with the adapter.
    """
    if not tokenizer.chat_template:
        return None
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return sorted(special.intersection(ids)) or None

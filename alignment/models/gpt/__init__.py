"""The GPT as a transformers architecture: configuration, models and heads."""

from .configuration_gpt import GPTConfig
from .modeling_gpt import (
    GPTForCausalLM,
    GPTForQuestionAnswering,
    GPTForSequenceClassification,
    GPTForTokenClassification,
    GPTModel,
    GPTPreTrainedModel,
)

__all__ = [
    "GPTConfig",
    "GPTForCausalLM",
    "GPTForQuestionAnswering",
    "GPTForSequenceClassification",
    "GPTForTokenClassification",
    "GPTModel",
    "GPTPreTrainedModel",
]

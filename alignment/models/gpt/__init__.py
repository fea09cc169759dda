"""The GPT as a transformers architecture: configuration, models and heads, which the Auto classes know from here on."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

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

AutoConfig.register(GPTConfig.model_type, GPTConfig)
AutoModel.register(GPTConfig, GPTModel)
AutoModelForCausalLM.register(GPTConfig, GPTForCausalLM)
AutoModelForQuestionAnswering.register(GPTConfig, GPTForQuestionAnswering)
AutoModelForSequenceClassification.register(GPTConfig, GPTForSequenceClassification)
AutoModelForTokenClassification.register(GPTConfig, GPTForTokenClassification)

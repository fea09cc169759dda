"""Post-training alignment: importing this package makes the GPT known to transformers' Auto classes."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .models.gpt import (
    GPTConfig,
    GPTForCausalLM,
    GPTForQuestionAnswering,
    GPTForSequenceClassification,
    GPTForTokenClassification,
    GPTModel,
)

AutoConfig.register(GPTConfig.model_type, GPTConfig)
AutoModel.register(GPTConfig, GPTModel)
AutoModelForCausalLM.register(GPTConfig, GPTForCausalLM)
AutoModelForQuestionAnswering.register(GPTConfig, GPTForQuestionAnswering)
AutoModelForSequenceClassification.register(GPTConfig, GPTForSequenceClassification)
AutoModelForTokenClassification.register(GPTConfig, GPTForTokenClassification)

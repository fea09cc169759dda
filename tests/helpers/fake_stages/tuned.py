from dataclasses import dataclass

from fake_stages.common import Common, work


@dataclass
class ModelOptions:
    model_name_or_path: str


CONFIGS = (Common, ModelOptions)
PARENTS = {"model_name_or_path": "causal-lm"}


def run(settings, options):
    work("tuned", "ForCausalLM", settings, [options.model_name_or_path])

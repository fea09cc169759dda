from dataclasses import dataclass

from fake_stages.common import Common, work


@dataclass
class AlignOptions:
    model_name_or_path: str
    reward_model_path: str


CONFIGS = (Common, AlignOptions)
PARENTS = {"model_name_or_path": "causal-lm", "reward_model_path": "sequence-classification"}


def run(settings, options):
    work("aligned", "ForCausalLM", settings, [options.model_name_or_path, options.reward_model_path])

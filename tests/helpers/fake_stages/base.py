from dataclasses import dataclass

from fake_stages.common import Common, work


@dataclass
class BaseOptions:
    tokenizer: str
    seed: int = 42


CONFIGS = (Common, BaseOptions)
PARENTS = {"tokenizer": "tokenizer"}


def run(settings, options):
    assert settings.seed == options.seed
    work("base", "ForCausalLM", settings, [options.tokenizer])

"""The modelling code beside the weights: transformers then loads the folder, and this project need not be installed."""

import re
from pathlib import Path

from alignment.models import gpt
from alignment.models.gpt import GPTConfig, modeling_gpt

HEADS = {
    "AutoModel": gpt.GPTModel,
    "AutoModelForCausalLM": gpt.GPTForCausalLM,
    "AutoModelForQuestionAnswering": gpt.GPTForQuestionAnswering,
    "AutoModelForSequenceClassification": gpt.GPTForSequenceClassification,
    "AutoModelForTokenClassification": gpt.GPTForTokenClassification,
}
# The class of the config is not the GPTConfig of the modelling code: transformers loads each from a copy of its own.
REGISTRATION = """

# Where this code is loaded from a checkpoint: transformers' generic heads make their base model through AutoModel,
# without passing trust_remote_code on, so it has to be registered for the config that has come.
from transformers import AutoModel  # noqa: E402

_init = GPTPreTrainedModel.__init__


def _init_registered(self, config, *args, **kwargs):
    AutoModel.register(type(config), GPTModel, exist_ok=True)
    _init(self, config, *args, **kwargs)


GPTPreTrainedModel.__init__ = _init_registered
"""
RELATIVE_IMPORT = re.compile(r"^( *from )(\.+)([\w.]+)(?= import )", flags=re.MULTILINE)


def auto_map() -> dict[str, str]:
    """Auto class -> `file.class`, for config.json. vLLM looks for AutoModel."""
    classes = {"AutoConfig": GPTConfig} | HEADS
    return {auto: f"{cls.__module__.rsplit('.', 1)[-1]}.{cls.__name__}" for auto, cls in classes.items()}


def code_files() -> dict[str, str]:
    """File name -> source of the modelling code and all that it imports of this project, to lie in one folder."""
    folder = Path(gpt.__file__).parent
    waiting = [folder / f"{entry.split('.')[0]}.py" for entry in auto_map().values()]
    sources = {}
    while waiting:
        path = waiting.pop()
        if path.name not in sources:
            source = path.read_text(encoding="utf-8")
            sources[path.name] = RELATIVE_IMPORT.sub(_flat, source)
            waiting += [_imported(path, *match.groups()[1:]) for match in RELATIVE_IMPORT.finditer(source)]
    sources[Path(modeling_gpt.__file__).name] += REGISTRATION
    return sources


def _imported(path: Path, dots: str, module: str) -> Path:
    """The file that `from ..module import` names in `path`."""
    return path.parents[len(dots) - 1].joinpath(*module.split(".")).with_suffix(".py")


def _flat(match: re.Match) -> str:
    return f"{match[1]}.{match[3].rsplit('.', 1)[-1]}"

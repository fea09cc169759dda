"""The modelling code in a checkpoint folder: transformers can then load the folder without this project."""

import re
from pathlib import Path

from alignment.models import gpt
from alignment.models.gpt import GPTConfig, configuration_gpt, modeling_gpt

HEADS = {
    "AutoModel": gpt.GPTModel,
    "AutoModelForCausalLM": gpt.GPTForCausalLM,
    "AutoModelForQuestionAnswering": gpt.GPTForQuestionAnswering,
    "AutoModelForSequenceClassification": gpt.GPTForSequenceClassification,
    "AutoModelForTokenClassification": gpt.GPTForTokenClassification,
}
# The class of the config is not the GPTConfig of the modelling code: transformers loads each from its own copy.
REGISTRATION = """

# When this code is loaded from a checkpoint, transformers' generic heads create their base model through AutoModel
# without trust_remote_code, so the base model has to be registered for the class of the given config.
from transformers import AutoModel  # noqa: E402

_init = GPTPreTrainedModel.__init__


def _init_registered(self, config, *args, **kwargs):
    AutoModel.register(type(config), GPTModel, exist_ok=True)
    _init(self, config, *args, **kwargs)


GPTPreTrainedModel.__init__ = _init_registered
"""
# The first version whose configs are dataclasses, as `@strict` needs them (https://github.com/huggingface/transformers/pull/41250).
OLDEST_TRANSFORMERS = (5, 4)
REQUIREMENT = f"""
import transformers

if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < {OLDEST_TRANSFORMERS}:
    raise ImportError(
        "The code of this checkpoint needs transformers {".".join(map(str, OLDEST_TRANSFORMERS))} or later, "
        f"and this is {{transformers.__version__}}: pip install --upgrade transformers"
    )
"""
IMPORTS_BEGIN = re.compile(r'^"""\n', flags=re.MULTILINE)  # after the module's docstring
RELATIVE_IMPORT = re.compile(r"^( *from )(\.+)([\w.]+)(?= import )", flags=re.MULTILINE)


def auto_map() -> dict[str, str]:
    """Return Auto class -> `file.class`, for config.json. vLLM looks for AutoModel."""
    classes = {"AutoConfig": GPTConfig} | HEADS
    return {auto: f"{cls.__module__.rsplit('.', 1)[-1]}.{cls.__name__}" for auto, cls in classes.items()}


def code_files() -> dict[str, str]:
    """Return file name -> source of the modelling code and the modules of this project that it imports.

    All files go into one folder, so that relative imports are rewritten.
    """
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
    config = Path(configuration_gpt.__file__).name
    sources[config] = IMPORTS_BEGIN.sub(lambda end: end[0] + REQUIREMENT, sources[config], count=1)
    return sources


def _imported(path: Path, dots: str, module: str) -> Path:
    """Return the file that `from ..module import` means in `path`."""
    return path.parents[len(dots) - 1].joinpath(*module.split(".")).with_suffix(".py")


def _flat(match: re.Match) -> str:
    """Rewrite a relative import as an import from the same folder."""
    return f"{match[1]}.{match[3].rsplit('.', 1)[-1]}"

"""Write docs/reference/ from the code: the command line, the recipe keys of each stage, the Python API.

    python docs/generate_reference.py

tests/test_reference.py compares the pages with the code. metrics.md and run-directory.md in the same folder are written
by hand; tests/integration/test_docs.py compares them with what runs write.
"""

import argparse
import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "reference"
sys.path.insert(0, str(FOLDER.parents[1]))  # so that the code of this checkout is described, installed or not

from align import VERBS  # noqa: E402
from alignment.pipeline.recipes.key_table import installed, text_of  # noqa: E402
from alignment.pipeline.recipes.keys import keys_of_module  # noqa: E402
from alignment.stages import STAGES  # noqa: E402

MADE = "<!-- Made by docs/generate_reference.py: change the code, not this page. -->\n"
OWNERS = {"transformers": "transformers", "trl": "TRL"}  # by the package of the class that has the key first
TRAINING = "training-arguments.md"
VERB = "@VERB@"  # for the name of a verb, until it is known which verbs share a section
# What the Python API page describes, by module.
API = {
    "eval": ["evaluate"],
    "eval.harness.run_suite": ["evaluate_many"],
    "eval.comparison.compare": ["compare"],
    "eval.comparison.flips": ["flips"],
    "eval.comparison.preferences": ["elo_ratings", "length_controlled_win_rate"],
    "eval.comparison.calibration": ["brier_scores", "expected_calibration_error", "reliability"],
    "alignment.models.loading": ["load_tokenizer", "load_trainable"],
    "alignment.models.gpt": ["GPTConfig.from_preset"],
    "alignment.report": ["write_report"],
    "alignment.trainers.ppo.trainer": ["PPOTrainer"],
    "reward_models.protocol": ["Reward"],
}


def main() -> int:
    """Write every page; returns the exit code."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"written: {FOLDER.name}/{name}")
    return 0


def pages() -> dict[str, str]:
    """Return the generated pages, file name -> text."""
    return {"cli.md": cli_page(), **key_pages(), "python-api.md": api_page()}


# The command line


def cli_page() -> str:
    """Return the page of all verbs; verbs with the same arguments share a section."""
    groups: dict[str, list[str]] = {}
    for verb in VERBS:
        groups.setdefault(verb_body(verb), []).append(verb)
    anchors = {verb: anchor(verbs) for verbs in groups.values() for verb in verbs}
    rows = [f"| [`align {verb}`](#{anchors[verb]}) | {VERBS[verb][1]} |" for verb in VERBS]
    return "\n".join(
        [
            "# Command line\n",
            MADE,
            "`align VERB --help` prints what this page lists. `--debug` shows the traceback of a user error.\n"
            "What the exit codes mean: [exit codes](../reliability.md#exit-codes).\n",
            "| command | what it does |",
            "|---|---|",
            *rows,
            "",
            *(f"## {title_of(verbs)}\n\n{shown(body, verbs)}" for body, verbs in groups.items()),
        ]
    )


def title_of(verbs: list[str]) -> str:
    """Return the heading of a section."""
    return f"align {', '.join(verbs)}"


def anchor(verbs: list[str]) -> str:
    """Return the anchor of a section."""
    return title_of(verbs).replace(",", "").replace(" ", "-")


def shown(body: str, verbs: list[str]) -> str:
    """Return the text of a section: what a single verb does, and its name for the placeholder."""
    if len(verbs) > 1:
        return body.replace(VERB, "STAGE")
    text = VERBS[verbs[0]][1]
    return f"{text[0].upper()}{text[1:]}.\n\n{body.replace(VERB, verbs[0])}"


def verb_body(verb: str) -> str:
    """Return usage, arguments, and the text after them in the help, with VERB for the verb's name."""
    parser = argparse.ArgumentParser(prog=f"align {verb}", formatter_class=argparse.RawDescriptionHelpFormatter)
    importlib.import_module(VERBS[verb][0]).add_arguments(parser)
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    positionals = " ".join(invocation(action) for action in actions if not action.option_strings)
    also = " [--key value ...]" if parser.get_default("overrides") is not None else ""
    lines = [f"```text\nalign {VERB} {positionals} [options]{also}\n```\n", "| argument | what it does |", "|---|---|"]
    lines += [argument_row(action).replace(f"/{verb}.yaml", f"/{VERB}.yaml") for action in actions]
    for group in parser._action_groups:
        if group.description:
            names = ", ".join(f"`{action.option_strings[-1]}`" for action in group._group_actions)
            lines.append(f"\n{names}: {escaped(' '.join(group.description.split()))}")
    if parser.epilog:
        lines.append(f"\n```text\n{parser.epilog.strip()}\n```")
    return "\n".join(lines) + "\n"


def invocation(action: argparse.Action) -> str:
    """Return a positional argument as the usage line shows it."""
    name = action.metavar or action.dest
    return f"{name} [{name} ...]" if action.nargs == "+" else f"[{name}]" if action.nargs in ("?", "*") else str(name)


def argument_row(action: argparse.Action) -> str:
    """Return a row of a verb's table."""
    text = (action.help or "").replace("%%", "%")
    if action.choices:
        text += f" (one of {', '.join(map(str, action.choices))})"
    shown = isinstance(action.default, int | float | str) and not isinstance(action.default, bool)
    if shown and "default" not in text and action.option_strings:
        text += f" (default: {action.default})"
    if action.required and action.option_strings:
        text += " (required)"
    value = "" if action.nargs == 0 or not action.option_strings else f" {action.metavar or action.dest.upper()}"
    name = f"{action.option_strings[-1]}{value}" if action.option_strings else str(action.metavar or action.dest)
    return f"| `{name}` | {cell(text)} |"


# Recipe keys


def key_pages() -> dict[str, str]:
    """Return the overview of recipe keys, a page per stage, and the page of transformers' keys."""
    modules = {stage: importlib.import_module(f"alignment.stages.{stage}") for stage in STAGES}
    sections = {stage: stage_tables(module) for stage, module in modules.items()}
    shared = shared_tables(sections)
    found = {f"keys-{stage}.md": stage_page(stage, modules[stage], sections[stage], shared) for stage in STAGES}
    return {"recipe-keys.md": overview(shared), **found, TRAINING: training_page(modules["sft"])}


def stage_tables(module: Any) -> dict[str, dict[str, str]]:
    """Return the keys of a stage, owner -> key -> row; transformers' only if their default is another here."""
    valid = keys_of_module(module).names
    tables: dict[str, dict[str, str]] = {"ours": {}, "TRL": {}, "transformers": {}}
    for cls in module.CONFIGS:
        for field in dataclasses.fields(cls):
            if field.name not in valid:
                continue
            origin = next(
                base for base in reversed(cls.__mro__) if field.name in getattr(base, "__dataclass_fields__", {})
            )
            owner = OWNERS.get(origin.__module__.split(".")[0], "ours")
            usual = origin.__dataclass_fields__[field.name]
            changed = default_of(usual) != default_of(field)
            if owner != "transformers" or changed:
                tables[owner][field.name] = key_row(field, usual if changed and owner != "ours" else None, owner)
    return tables


def shared_tables(sections: dict[str, dict[str, dict[str, str]]]) -> dict[str, dict[str, str]]:
    """Return the rows that all trainer stages but pretraining have alike, owner -> key -> row."""
    stages = [tables for stage, tables in sections.items() if stage not in ("tokenizer", "pretrain")]
    first, *others = stages
    return {
        owner: {key: row for key, row in rows.items() if all(tables[owner].get(key) == row for tables in others)}
        for owner, rows in first.items()
    }


def stage_page(stage: str, module: Any, tables: dict, shared: dict) -> str:
    """Return the page of a stage: its keys without those that the overview has."""
    keys = keys_of_module(module)
    rest = {
        owner: {key: row for key, row in rows.items() if shared[owner].get(key) != row}
        for owner, rows in tables.items()
    }
    lines = [f"# Recipe keys: {stage}\n", MADE, f"`align {stage}`: {STAGES[stage].help}.\n"]
    if not tables["TRL"] and not tables["transformers"]:
        lines.append("In addition to these, the stage takes the keys of [data](recipe-keys.md#data).\n")
    else:
        lora = "" if tables["TRL"] else " except those of model and LoRA"
        lines.append(
            f"In addition to these, the stage takes the keys of [every training stage](recipe-keys.md){lora} and\n"
            f"[transformers' TrainingArguments]({TRAINING}).\n"
        )
    if keys.parents:
        lines += ["A parent is a stage's name, a folder or a hub id:\n", "| key | parent |", "|---|---|"]
        lines += [f"| `{key}` | {kind} |" for key, kind in sorted(keys.parents.items())] + [""]
    titles = {"ours": "Of this project", "TRL": "Of TRL", "transformers": "Of transformers, with another default"}
    for owner, title in titles.items():
        if rest[owner]:
            lines += [f"## {title}\n", *table(rest[owner].values()), ""]
    if keys.renamed:
        lines += ["## Renamed\n", "Keys of TRL's last PPO, which are refused with the new name:\n"]
        lines += ["| key | instead |", "|---|---|"]
        lines += [*(f"| `{old}` | {cell(new)} |" for old, new in keys.renamed.items()), ""]
    return "\n".join(lines)


def overview(shared: dict[str, dict[str, str]]) -> str:
    """Return the page of the keys that training stages share."""
    from alignment.data.arguments import DataArguments
    from alignment.stages.shared.lora import ModelArguments

    data, model = ({field.name for field in dataclasses.fields(cls)} for cls in (DataArguments, ModelArguments))
    ours, trl = shared["ours"], shared["TRL"]
    return "\n".join(
        [
            "# Recipe keys\n",
            MADE,
            "A recipe is YAML: `key: value`. On the command line `--key value` replaces a value:\n"
            "`align sft sft.yaml --learning_rate 1e-4`; in a pipeline, `align run DIR --sft.learning_rate 1e-4`. "
            "A misspelt key is\nan error that names the nearest valid one.\n",
            "The keys come from three places: this project, TRL's config of the stage, and "
            f"[transformers' TrainingArguments]({TRAINING}).\nThis page lists what SFT, reward, DPO, KTO, PPO and GRPO "
            "have in common. Each stage has a page of its own:\n",
            *(f"- [{stage}](keys-{stage}.md): {facts.help}" for stage, facts in STAGES.items()),
            f"\nTables {installed()}.\n",
            "## Data\n",
            *table(row for key, row in ours.items() if key in data),
            "\n## Training, faults and hardware\n",
            *table(row for key, row in (ours | trl).items() if key not in data | model),
            "\n## Model and LoRA\n",
            *table(row for key, row in (ours | trl).items() if key in model),
            "\n## transformers' keys with another default\n",
            *table(shared["transformers"].values()),
            "",
        ]
    )


def training_page(module: Any) -> str:
    """Return the page of transformers' keys."""
    from transformers import TrainingArguments

    valid = keys_of_module(module).names
    rows = [key_row(field) for field in dataclasses.fields(TrainingArguments) if field.name in valid]
    return "\n".join(
        [
            "# transformers' TrainingArguments\n",
            MADE,
            "Every training stage takes these keys, with the defaults of transformers unless the stage's page or the "
            "[overview](recipe-keys.md)\nsays otherwise. The texts are transformers'. "
            f"The table was {installed()}.\n",
            *table(rows),
            "",
        ]
    )


def table(rows: Any) -> list[str]:
    """Return a table of keys."""
    return ["| key | type | default | what it does |", "|---|---|---|---|", *rows]


def key_row(field: dataclasses.Field, usual: dataclasses.Field | None = None, owner: str = "") -> str:
    """Return a row; `usual` is the owner's field if its default is another."""
    default = default_of(field)
    if usual is not None:
        default += f" ({owner}: {default_of(usual)})"
    text = str(field.metadata.get("help") or "").replace("%%", "%")
    return f"| `{field.name}` | {cell(type_text(field.type))} | {default} | {cell(text)} |"


def type_text(hint: Any) -> str:
    """Return a field's type in words: `str or null`, or the values of a Literal."""
    text = hint.replace("typing.", "") if isinstance(hint, str) else text_of(hint)
    text = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace("'", "`").replace(", ", " or "), text)
    return text.replace("None", "null").replace(" | ", " or ")


def default_of(field: dataclasses.Field) -> str:
    """Return a field's default as YAML writes it."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, Enum):
        value = value.value
    words = {None: "null", True: "true", False: "false", "": '""'}
    for word, text in words.items():
        if value is word or (word == "" and value == ""):
            return text
    return f"`{value}`"


# The Python API


def api_page() -> str:
    """Return the page of the Python API, made of signatures and docstrings."""
    lines = [
        "# Python API\n",
        MADE,
        "`import alignment` registers the GPT with transformers' Auto classes, so that checkpoints load with "
        "`AutoModelForCausalLM.from_pretrained`\nand `AutoTokenizer.from_pretrained`. It imports neither torch nor "
        "transformers.\n",
    ]
    alignment = importlib.import_module("alignment")
    named = {"alignment": list(getattr(alignment, "API", ())), **API}
    for module, names in named.items():
        for name in names:
            subject: Any = importlib.import_module(module)
            for part in name.split("."):
                subject = getattr(subject, part)
            lines += [*api_section(module, name, subject), ""]
    return "\n".join(lines)


def api_section(module: str, name: str, subject: Callable) -> list[str]:
    """Return the section of a function or class."""
    top = name.split(".")[0]
    signature = "\n".join(signature_lines(name, subject))
    return [
        f"## {module}.{name}\n",
        f"```python\nfrom {module} import {top}\n\n{signature}\n```\n",
        *docstring_lines(documentation(subject)),
    ]


def documentation(subject: Callable) -> str:
    """Return the docstring; that of a protocol, with its call's."""
    own = inspect.getdoc(subject) or ""
    return f"{own}\n\n{inspect.getdoc(subject.__call__)}" if getattr(subject, "_is_protocol", False) else own


def signature_lines(name: str, subject: Callable) -> Iterator[str]:
    """Yield a signature, a line per parameter if it is long."""
    called = subject.__call__ if getattr(subject, "_is_protocol", False) else subject
    signature = inspect.signature(called)
    parts, bare_star = [], False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        bare_star = bare_star or parameter.kind is parameter.VAR_POSITIONAL
        if parameter.kind is parameter.KEYWORD_ONLY and not bare_star:
            bare_star = True
            parts.append("*")
        parts.append(parameter_text(parameter))
    returned = signature.return_annotation
    tail = "" if returned is signature.empty else f" -> {annotation_text(returned)}"
    one = f"{name}({', '.join(parts)}){tail}"
    if len(one) <= 100:
        yield one
    else:
        yield f"{name}("
        yield from (f"    {part}," for part in parts)
        yield f"){tail}"


def parameter_text(parameter: inspect.Parameter) -> str:
    """Return a parameter as it is written in a signature."""
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    typed = "" if parameter.annotation is parameter.empty else f": {annotation_text(parameter.annotation)}"
    default = "" if parameter.default is parameter.empty else f"{' = ' if typed else '='}{parameter.default!r}"
    return f"{stars}{parameter.name}{typed}{default}"


def annotation_text(annotation: Any) -> str:
    """Return an annotation without quotes and modules."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:\w+\.)+(?=[A-Z]\w*)", "", text.replace("'", ""))


def docstring_lines(text: str) -> Iterator[str]:
    """Yield a docstring as Markdown: a section such as `Args:` becomes a list."""
    in_section = False
    for line in escaped(text).splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields|Source):", line):
            in_section = True
            yield f"**{line.rstrip(':')}**\n"
        elif in_section and (entry := re.fullmatch(r"    ([\w.,\\* ]+): (.*)", line)):
            yield f"- `{entry[1].replace(chr(92), '')}`: {entry[2]}"
        elif in_section and line.startswith("        "):
            yield f"  {line.strip()}"
        else:
            in_section = in_section and (not line or line.startswith(" "))
            yield line.strip() if in_section else line


# Text


def cell(text: str) -> str:
    """Return a text for a cell of a table: one line, bars escaped."""
    return escaped(" ".join(text.split())).replace("|", "\\|")


def escaped(text: str) -> str:
    """Return a text in which nothing outside code is read as HTML, a link or emphasis."""
    pieces = re.split(r"(`[^`]*`)", text)
    for index in range(0, len(pieces), 2):
        pieces[index] = re.sub(r"([\\*<]|\b_|_\b)", r"\\\1", pieces[index])
    return "".join(pieces)


if __name__ == "__main__":
    sys.exit(main())

"""Write docs/reference/ from the code: the command line, the recipe keys of each stage, the Python API.

    python docs/generate_reference.py

tests/test_reference.py compares the pages with the code. metrics.md and run-directory.md in the same folder are written
by hand; tests/integration/test_docs.py compares them with what runs write.
"""

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "reference"
sys.path.insert(0, str(FOLDER.parents[1]))  # so that the code of this checkout is described, installed or not

from align import VERBS  # noqa: E402
from alignment.pipeline.recipes import explain, key_table  # noqa: E402
from alignment.pipeline.recipes.keys import OWNERS, Key, Keys  # noqa: E402
from alignment.pipeline.recipes.typecheck import describe  # noqa: E402
from alignment.stages import STAGES  # noqa: E402

MADE = "<!-- Made by docs/generate_reference.py: change the code, not this page. -->\n"
TRAINED, LORA = ("max_steps",), "use_peft"  # keys that every training stage has, and every fine-tuning stage
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
    """Return the overview of recipe keys, and the pages of each stage, of transformers and of pipeline.yaml."""
    keys = {subject: explain.keys_for(subject) for subject in explain.SUBJECTS}
    rows = {subject: {key.name: (key, key_row(key)) for key in found.fields} for subject, found in keys.items()}
    trainers = {stage: rows[stage] for stage in STAGES if not keys[stage].names.isdisjoint(TRAINED)}
    tuned = {stage: found for stage, found in trainers.items() if LORA in found}
    shared, libraries = alike(tuned), of_owner(alike(trainers), "transformers")
    known = {row for _, row in (shared | libraries).values()}
    found = {f"keys-{stage}.md": stage_page(stage, keys[stage], rows[stage], known) for stage in STAGES}
    return {
        "recipe-keys.md": overview({name: pair for name, pair in shared.items() if name not in libraries}, rows),
        **found,
        TRAINING: training_page(libraries),
        "keys-pipeline.md": pipeline_page(rows),
    }


def alike(stages: dict[str, dict]) -> dict:
    """Return the keys that have the same row in all stages."""
    first, *others = stages.values()
    return {name: pair for name, pair in first.items() if all(found.get(name) == pair for found in others)}


def of_owner(keys: dict, owner: str) -> dict:
    """Return the keys of an owner whose default is the owner's."""
    return {name: (key, row) for name, (key, row) in keys.items() if key.owner == owner and not key.set_by}


def stage_page(stage: str, keys: Keys, rows: dict, known: set[str]) -> str:
    """Return the page of a stage: its keys without those that the shared pages have."""
    lines = [f"# Recipe keys: {stage}\n", MADE, f"`align {stage}`: {STAGES[stage].help}.\n"]
    if LORA in rows:
        lines.append(
            f"In addition, the stage takes the [shared keys](recipe-keys.md) and [those of training]({TRAINING}).\n"
        )
    elif keys.names.isdisjoint(TRAINED):
        lines.append("In addition, the stage takes the keys of [data](recipe-keys.md#data).\n")
    else:
        lines.append(
            "In addition, the stage takes the [shared keys](recipe-keys.md) except those of model and LoRA, and\n"
            f"[those of training]({TRAINING}).\n"
        )
    if keys.parents:
        lines += ["A parent is a stage's name, a folder or a hub id:\n", "| key | parent |", "|---|---|"]
        lines += [*(f"| `{key}` | {kind} |" for key, kind in sorted(keys.parents.items())), ""]
    for owner in OWNERS:
        own = [row for key, row in rows.values() if key.owner == owner and row not in known]
        if own:
            lines += [f"## {heading(owner)}\n", *table(own), ""]
    if keys.renamed:
        lines += ["## Renamed\n", "Keys of TRL's last PPO, which are refused with the new name:\n"]
        lines += ["| key | instead |", "|---|---|"]
        lines += [*(f"| `{old}` | {cell(new)} |" for old, new in keys.renamed.items()), ""]
    return "\n".join(lines)


def heading(owner: str) -> str:
    """Return the heading of an owner's keys on a stage's page."""
    return {"alignment": "This project", "transformers": "transformers, as in this stage"}.get(owner, OWNERS[owner])


def overview(shared: dict, rows: dict[str, dict]) -> str:
    """Return the page of the keys that fine-tuning stages share."""
    parts: dict[str, list[str]] = {"Data": [], "Training": [], "Model and LoRA": [], "transformers": []}
    for name, (key, row) in shared.items():
        ours = key.owner == "alignment"
        part = "Training" if ours and name in rows["pretrain"] else "Model and LoRA"
        part = "Data" if ours and name in rows["tokenizer"] else part
        parts["transformers" if key.owner == "transformers" else part].append(row)
    sections = [f"## {title}\n\n" + "\n".join(table(found)) + "\n" for title, found in parts.items() if found]
    return "\n".join(
        [
            "# Recipe keys\n",
            MADE,
            "A recipe is YAML: `key: value`. On the command line `--key value` replaces a value:\n"
            "`align sft sft.yaml --learning_rate 1e-4`; in a pipeline, `align run DIR --sft.learning_rate 1e-4`. "
            "A misspelt key is\nan error that names the nearest valid one. `align recipe STAGE KEY` explains a key.\n",
            "The keys come from this project, TRL's config of the stage, PEFT, and "
            f"[transformers' TrainingArguments]({TRAINING}).\nThis page lists what SFT, reward, DPO, KTO, PPO and GRPO "
            "have in common. Each stage has a page of its own, and\n[pipeline.yaml](keys-pipeline.md) too:\n",
            *(f"- [{stage}](keys-{stage}.md): {facts.help}" for stage, facts in STAGES.items()),
            f"\nThe tables were {key_table.FILE.read_text(encoding='utf-8').splitlines()[0]}.\n",
            *sections,
        ]
    )


def training_page(keys: dict) -> str:
    """Return the page of transformers' keys."""
    return "\n".join(
        [
            "# transformers' TrainingArguments\n",
            MADE,
            "Every training stage takes these keys, with transformers' default and meaning. Keys that depend on the "
            "stage are on the\nstages' pages and the [overview](recipe-keys.md).\n",
            *table(row for _, row in keys.values()),
            "",
        ]
    )


def pipeline_page(rows: dict[str, dict]) -> str:
    """Return the page of the keys of pipeline.yaml and its `evals`."""
    return "\n".join(
        [
            "# Keys of pipeline.yaml\n",
            MADE,
            "An example, and how stages find their parents: [pipeline.yaml](pipeline-yaml.md).\n",
            *table(row for _, row in rows[explain.PIPELINE].values()),
            "\n## evals\n",
            *table(row for _, row in rows[key_table.EVALS].values()),
            "",
        ]
    )


def table(rows: Iterable[str]) -> list[str]:
    """Return a table of keys."""
    return ["| key | value | default | what it does |", "|---|---|---|---|", *rows]


def key_row(key: Key) -> str:
    """Return the row of a key."""
    default = "required" if key.required else f"`{key.default}`" if key.default else ""
    if key.set_by:
        default += f" (set by {OWNERS[key.set_by]})"
    return f"| `{key.name}` | {cell(describe(key.hint))} | {default} | {cell(key.help.replace('%%', '%'))} |"


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

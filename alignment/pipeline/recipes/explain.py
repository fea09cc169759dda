"""Explanations of recipe keys: type, default, owner and help, of the stages, of `evals` and of pipeline.yaml."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from alignment.errors import UserError, did_you_mean, unknown
from alignment.pipeline.recipes import key_table, pipeline_file, report_keys
from alignment.pipeline.recipes.draft import BASE, RATES, draft
from alignment.pipeline.recipes.keys import OURS, OWNERS, Key, Keys
from alignment.pipeline.recipes.packaged_recipes import packaged
from alignment.pipeline.recipes.typecheck import describe
from alignment.stages import STAGES
from alignment.yaml_text import write_yaml

PIPELINE = "pipeline"
SUBJECTS = (*STAGES, key_table.EVALS, PIPELINE)
WIDTH = 110
LONGEST_DEFAULT = 14
PIPELINE_HELP = {
    "name": "The name of the run directory: runs/NAME (default: the folder's name).",
    "seed": "The training seed of every stage whose recipe sets none.",
    "inputs": "Values that the command line gives, name -> help: `align run DIR --NAME VALUE`, `${NAME}` in a recipe.",
    "stages": "The stages in the order in which they run, name -> recipe file: relative to this folder, or of a "
    "packaged recipe (tiny/sft.yaml).",
    "evals": "What is evaluated after which stage; `align recipe evals` lists its keys.",
}
EVALS_HELP = {
    "suites": "Suites to run: names of this project's suites (gsm8k?data=FILE), paths of lm-eval YAML or JSONL, or "
    "lm_eval:TASK.",
    "stages": "Stages whose checkpoints are evaluated, in every suite and format; base: the model outside the pipeline "
    "that its first stage starts from.",
    "formats": "plain (the prompt as text), chat (the prompt as a user's turn), or both.",
    "extra": "Further evaluations: a list of {stage, suite, format, other keys of evals}.",
    "base": "The stage that the report compares every other stage with (default: the evaluated model that the "
    "first stage starts from; from random weights, the first that is evaluated).",
    "headline": "The task that represents a suite in the report, suite -> task (default: the suite's aggregate).",
    "samples": "Suite whose prompts the report shows with every stage's answers, and their number: {suite: S, n: 30}.",
    "pareto": "Two suites whose scores the report plots against each other, with the stages that no other dominates.",
}
EVALS_HINTS = {"suites": list[str], "stages": list[str], "formats": list[str], "extra": list[dict]}
DEFAULTS = {"formats": write_yaml(list(pipeline_file.FORMATS)), "seed": "0"}


def keys_for(subject: str) -> Keys:
    """Return the keys of a stage, of `evals` or of pipeline.yaml (PIPELINE).

    Raises:
        UserError: there is no such subject.
    """
    if subject not in SUBJECTS:
        raise unknown("stage", subject, SUBJECTS)
    if subject == PIPELINE:
        return Keys(tuple(_own(name, hint, PIPELINE_HELP[name]) for name, hint in pipeline_file.KEYS.items()))
    listed = key_table.read(subject) or key_table.made(subject)
    if subject != key_table.EVALS:
        return listed
    hints = EVALS_HINTS | {name: key.hint for name, key in report_keys.KEYS.items()}
    given = [replace(key, default="the run's") if key.name == "seed" else key for key in listed.fields]
    return Keys((*(_own(name, hints[name], text) for name, text in EVALS_HELP.items()), *given))


def _own(name: str, hint: object, help: str) -> Key:
    return Key(name, hint, default=DEFAULTS.get(name, ""), owner=OURS, help=help)


def explain_key(subject: str, name: str) -> str:
    """Return the explanation of a key, for the terminal.

    Raises:
        UserError: there is no such key; the error names the nearest, what replaced it, or the stages that have it.
    """
    keys, name = keys_for(subject), name.replace("-", "_")
    found = next((key for key in keys.fields if key.name == name), None)
    if found is None:
        raise _unknown_key(subject, name, keys)
    default = "none: the recipe has to set it" if found.required else found.default or "not set"
    facts = [
        ("type", describe(found.hint)),
        ("default", f"{default}, set by {OWNERS[found.set_by]}" if found.set_by else default),
    ]
    if parent := keys.parents.get(name):
        facts.append(("parent", f"names a stage, or the path or hub id of a {parent} checkpoint"))
    if made := _drafted(subject, name, found.default):
        facts.append(("drafted", made))
    facts.append(("owner", OWNERS[found.owner]))
    lines = [_wrapped(f"  {label + ':':9}{text}", indent=11) for label, text in facts]
    return "\n".join([f"{subject}: {name}", *lines, "", _wrapped(f"  {found.help}", indent=2)])


def _drafted(stage: str, name: str, default: str) -> str:
    """Return what `align STAGE --model M --data F` sets a key to, if recipes/lora-1gpu has another default."""
    folder = packaged().get(BASE)
    if folder is None or stage not in RATES:
        return ""
    values = {}
    for flag in (" --lora", ""):
        made = draft(stage, folder, {}, new_adapter=bool(flag), continued=False, chosen={}).recipe
        values[f"align {stage}{flag}"] = write_yaml(made[name]) if name in made else default
    parts = [f"{value} in `{command}`" for command, value in values.items() if value != default]
    return f"{', '.join(parts)}, without a recipe" if parts else ""


def list_keys(subject: str, all: bool = False) -> str:
    """Return the keys of a subject grouped by owner, those of this project first.

    Args:
        all: a line for every key; otherwise the keys of libraries are listed by name alone.
    """
    keys = {key.name: key for key in reversed(keys_for(subject).fields)}  # a name may occur twice: the first counts
    parts = []
    for owner, title in OWNERS.items():
        group = [key for key in reversed(keys.values()) if key.owner == owner]
        if not group:
            continue
        parts.append(f"{title} ({len(group)} keys):")
        names = _wrapped("  " + ", ".join(key.name for key in group), indent=2)
        parts.append(_rows(group) if all or owner == OURS else names)
        parts.append("")
    return "\n".join(parts).rstrip()


def _rows(group: Sequence[Key]) -> str:
    """A line per key: name, default and the start of its help."""
    width = max(len(key.name) for key in group)
    defaults = [textwrap.shorten(key.default, LONGEST_DEFAULT, placeholder="...") for key in group]
    second = max(map(len, defaults))
    room = max(WIDTH - width - second - 6, 20)
    return "\n".join(
        f"  {key.name:{width}}  {default:{second}}  {textwrap.shorten(key.help, room, placeholder=' ...')}".rstrip()
        for key, default in zip(group, defaults, strict=True)
    )


def _wrapped(text: str, indent: int) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def _unknown_key(subject: str, name: str, keys: Keys) -> UserError:
    others = [other for other in SUBJECTS if other != subject and name in keys_for(other).names]
    new = keys.renamed.get(name)
    fix = f"what it did: {new}" if new else did_you_mean(name, sorted(keys.names), cutoff=0.7)
    if not fix and others:
        fix = f"{', '.join(others)} {'have' if len(others) > 1 else 'has'} it: align recipe {others[0]} {name}"
    return UserError(f"{subject} has no key {name!r}", fix=fix or f"`align recipe {subject} --all` lists the keys")

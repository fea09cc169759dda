"""A copy of a packaged recipe folder to change: complete in itself, with its comments."""

import re
import shlex
import tempfile
from importlib import metadata
from pathlib import Path

from alignment.durable.atomic import write_text
from alignment.durable.unwritable import errors_of_place, make_folder
from alignment.errors import UserError, did_you_mean
from alignment.pipeline.recipes.packaged_recipes import FOLDER, PIPELINE_FILE, listing, packaged
from alignment.pipeline.recipes.pipeline_file import read_settings, stage_files
from alignment.pipeline.recipes.recipe import merge, placeholders, read_recipe
from alignment.yaml_text import parse_yaml, write_yaml

KEY = re.compile(r"([A-Za-z_]\w*):")
DIARY = "README.md"  # how the settings of the original were chosen: not copied


def copy_recipe(name: str, target: Path) -> list[Path]:
    """Write a copy of a packaged recipe folder, and return its files.

    Recipes that another folder's recipes extend are written out, `name:` is the new folder's name, and commands in
    headers are for the new folder.

    All files appear at once: writing that fails leaves nothing behind.

    Raises:
        UserError: there is no such recipe, the folder has files already, or its name is no text of one line.
    """
    known = packaged()
    name = name.removeprefix(f"{FOLDER}/").rstrip("/")
    if name not in known:
        recipes = listing().replace("\n", "\n            ")
        expected = f"one of\n            {recipes}"
        raise UserError(f"no packaged recipe {name!r}", expected=expected, fix=did_you_mean(name, known))
    _require_printable(target)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        got = "a folder with files" if target.is_dir() else "a file"
        raise UserError(f"{target} exists already", got=got, expected="a new folder", fix="choose another name")
    texts = _texts(known[name], target)
    make_folder(target.parent)
    # An empty folder stays the same folder, since it may be the working directory: its files are moved into it.
    exists = target.is_dir()
    with (
        errors_of_place(target),
        tempfile.TemporaryDirectory(prefix=".align-init-", dir=target if exists else target.parent) as place,
    ):
        partial = Path(place, "recipe")
        partial.mkdir()
        for file, text in texts.items():
            write_text(partial / file, text)
        if exists:
            for file in texts:
                (partial / file).rename(target / file)
        else:
            partial.rename(target)
    return [target / file for file in texts]


def _require_printable(target: Path) -> None:
    """Raise for a name with line breaks or bytes that are not UTF-8, which headers and commands cannot hold."""
    if not (str(target).isprintable() and target.resolve().name.isprintable()):
        raise UserError(
            f"{str(target)!r} cannot be a recipe folder",
            got="a name with line breaks, control characters or bytes that are not UTF-8",
            expected="a name that can be printed",
            fix="choose another name",
        )


def as_argument(target: Path) -> str:
    """The folder as an argument of a command: a name that begins with `-` would be an option."""
    path = target.as_posix()
    return f"./{path}" if path.startswith("-") else path


def _texts(source: Path, target: Path) -> dict[str, str]:
    """The files of the copy: name -> text."""
    files = [file for file in source.iterdir() if file.is_file() and file.name != DIARY]
    stages = stage_files(read_settings(source), source)
    files += [file.resolve() for file in stages.values() if file.parent.resolve() != source.resolve()]
    texts = {}
    for file in sorted(files, key=lambda file: (file.name != PIPELINE_FILE, file.name)):
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".yaml" and isinstance(parse_yaml(text, str(file)), dict):  # a list has no keys to fill in
            text = flattened(file)
        texts[file.name] = renamed(text, file.parent.name, target)
    texts[PIPELINE_FILE] = _for_target(texts[PIPELINE_FILE], source.name, target)
    return texts


def renamed(text: str, name: str, target: Path) -> str:
    """A recipe whose comments name the new folder and its run directory."""
    places = {f"{FOLDER}/{name}": as_argument(target), f"runs/{name}": f"runs/{target.resolve().name}"}

    def rename(comment: re.Match[str]) -> str:
        line = comment[0]
        for old, new in places.items():
            line = shlex.quote(new).join(re.split(rf"(?<![\w./-]){re.escape(old)}(?![\w-])", line))
        return line.replace(f"{DIARY} here", f"{DIARY} of {FOLDER}/{name}")

    return re.sub(r"^#.*$", rename, text, flags=re.MULTILINE)


def _for_target(text: str, source: str, target: Path) -> str:
    """pipeline.yaml with the new name, stages in this folder, and a line on where it comes from."""
    header, parts = blocks(text)
    parts["name"] = f"name: {write_yaml(target.resolve().name)}\n"
    parts["stages"] = re.sub(r"(: *)\.\./\S*/", r"\1", parts["stages"])
    origin = f"# from      {source}{_version()}, by `align init`; measured values are those of {source} unchanged\n"
    return header + origin + "".join(parts.values())


def _version() -> str:
    """The version of this project, for a header; empty if it runs from its sources without being installed."""
    try:
        return f" of alignment-pipeline {metadata.version('alignment-pipeline')}"
    except metadata.PackageNotFoundError:
        return ""


def flattened(path: Path) -> str:
    """The text of a recipe file with the keys that it `extends` written out; comments are kept."""
    header, own = blocks(path.read_text(encoding="utf-8"))
    if "extends" not in own:
        return header + "".join(own.values())
    base_path = path.parent / parse_yaml(own.pop("extends"), str(path))["extends"]
    _, base = blocks(flattened(base_path))
    for key, block in own.items():
        base[key] = _over(base[key], block, key) if key in base else block
    return header + "".join(base.values())


def _over(base: str, block: str, key: str) -> str:
    """The block of a key that replaces the block of an extended recipe; mappings are merged."""
    old, new = (parse_yaml(text, key)[key] for text in (base, block))
    if not (isinstance(old, dict) and isinstance(new, dict)) or (merged := merge(old, new)) == new:
        return block
    return f"{key}:\n" + "".join(f"  {name}: {write_yaml(value)}\n" for name, value in merged.items())


def blocks(text: str) -> tuple[str, dict[str, str]]:
    """Split a recipe into its header, and the lines of each key with the comments above them."""
    header, parts, pending, key = "", {}, "", ""
    for line in text.splitlines(keepends=True):
        found = KEY.match(line)
        if found:
            key = found[1]
            parts[key], pending = pending + line, ""
        elif not key:
            header += line
        elif line.startswith("#"):
            pending += line
        else:
            parts[key], pending = parts[key] + pending + line, ""
    if pending:
        parts[key] += pending
    return header, parts


def next_commands(target: Path) -> list[str]:
    """The commands that check and run a recipe folder, with a placeholder for each of its inputs."""
    settings = read_settings(target)
    used = set().union(*(placeholders(read_recipe(target / file)) for file in settings.stages.values()))
    inputs = "".join(f" --{name} {name.upper()}" for name in settings.inputs if name in used)
    return [f"align {verb} {shlex.quote(as_argument(target))}{inputs}" for verb in ("check", "run")]

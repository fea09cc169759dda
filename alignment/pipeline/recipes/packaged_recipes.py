"""The recipes that come with the project, found by name in any folder: `tiny`, `tiny/sft.yaml`."""

import logging
import textwrap
from collections.abc import Collection
from pathlib import Path

from alignment.errors import nearest

logger = logging.getLogger(__name__)

PIPELINE_FILE = "pipeline.yaml"
PACKAGE = Path(__file__).parents[2]
WIDTH = 110
FOLDER = "recipes"  # of the packaged recipes, and optional before a name: `recipes/tiny` is `tiny`


def packaged() -> dict[str, Path]:
    """Return the packaged recipe folders by name: those of the wheel, or of a checkout."""
    inside = PACKAGE / FOLDER
    root = inside if inside.is_dir() else PACKAGE.parent / FOLDER
    return {file.parent.name: file.parent for file in sorted(root.glob(f"*/{PIPELINE_FILE}"))}


def find_recipe(given: str | Path, folder: str | Path = "") -> Path:
    """Return the path of a recipe folder or recipe file: as given, or a packaged recipe if no such folder exists.

    A packaged recipe below the working directory is returned as a relative path.

    Args:
        folder: the folder that a relative path starts from.
    """
    path, parts = Path(folder, given), Path(given).parts
    start = int(parts[:1] == (FOLDER,))
    name, rest = "".join(parts[start : start + 1]), parts[start + 1 :]
    if Path(folder, *parts[: start + 1]).exists() or name not in (known := packaged()):
        return path
    found, here = known[name].joinpath(*rest), Path.cwd()
    return found.relative_to(here) if found.is_relative_to(here) else found


def locate_recipe(given: str | Path) -> Path:
    """Return the path that `find_recipe` finds, and log it if it is not the path that was given."""
    found = find_recipe(given)
    if found != Path(given):
        logger.info("%s: the packaged recipe %s", given, found)
    return found


def short_name(path: Path) -> str:
    """Return the path of a recipe for tables and commands: a packaged recipe elsewhere by the name that finds it."""
    for name, folder in packaged().items() if path.is_absolute() else ():
        if path.is_relative_to(folder) and not Path(name).exists():
            return str(Path(name, path.relative_to(folder)))
    return str(path)


def name_here(name: str) -> str | None:
    """Return the name that finds a packaged recipe from this folder, `tiny` or `recipes/tiny`.

    None if a file or folder here hides both.
    """
    return next((text for text in (name, f"{FOLDER}/{name}") if not Path(text).exists()), None)


def nearest_file(given: Path) -> str | None:
    """Return the file of a packaged recipe with the name most similar to a misspelt one: `tiny/sft.yaml`."""
    names = [f"{name}/{file.name}" for name, folder in packaged().items() for file in folder.glob("*.yaml")]
    found = next(iter(nearest(given.as_posix().removeprefix(f"{FOLDER}/"), names)), None)
    if found is None or Path(found).is_file():
        return found
    name, file = found.split("/")
    here = name_here(name)
    return here and f"{here}/{file}"


def nearest_folder(given: Path, others: Collection[str]) -> str | None:
    """Return the recipe folder, packaged or one of others, with the name most similar to a misspelt one."""
    found = {name: here for name in packaged() if (here := name_here(name))}
    names = {text: here for name, here in found.items() for text in (name, f"{FOLDER}/{name}")}
    names |= {path: path for path in others}
    return next((names[text] for text in nearest(given.as_posix(), names)), None)


def summary(folder: Path) -> str:
    """Return the first sentence of the header of a recipe folder's pipeline.yaml."""
    lines = (folder / PIPELINE_FILE).read_text(encoding="utf-8").splitlines()
    header = [line.removeprefix("#").strip() for line in lines]
    end = next((number for number, line in enumerate(lines) if not line.removeprefix("#").strip()), len(lines))
    return " ".join(header[:end]).partition(". ")[0].rstrip(".")


def listing() -> str:
    """Return a line per packaged recipe: its name and what it is for."""
    known = packaged()
    width = max(map(len, known), default=0)
    lines = (f"{name:{width}}  {_shortened(summary(folder), WIDTH - width)}" for name, folder in known.items())
    return "\n".join(lines)


def _shortened(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder=" ...")

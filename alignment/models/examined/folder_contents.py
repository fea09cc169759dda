"""A path that is no checkpoint: what it is instead, and the checkpoint that may have been meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alignment.errors import nearest
from alignment.models.examined.weight_files import ADAPTER, FORMATS, LISTED

CONFIGS = ("config.json", "adapter_config.json")
# Where a checkpoint lies below a stage, a run, a trainer's folder, the hub's cache, and a folder with one subfolder.
BELOW = ("checkpoint", "*/checkpoint", "checkpoint-*", "trainer/checkpoint-*", "snapshots/*", "*")
TOKENIZERS = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "tekken.json", "*.vocab")


def is_model(folder: Path) -> bool:
    """Return whether a folder has the config of a model or of an adapter."""
    return any((folder / name).is_file() for name in CONFIGS)


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has files of a tokenizer."""
    return any(any(folder.glob(pattern)) for pattern in TOKENIZERS)


def listed(folder: Path) -> str:
    """Return the names of a folder's first files."""
    return ", ".join(sorted(path.name for path in folder.iterdir())[:LISTED]) or "an empty folder"


def checkpoints_below(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder that is none itself; of step checkpoints, the newest first."""
    for pattern in BELOW:
        if found := [path for path in folder.glob(pattern) if path.is_dir() and is_model(path)]:
            return sorted(found, key=_step, reverse=True) if "checkpoint-" in pattern else sorted(found)
    return []


def advice(path: Path) -> str:
    """Return the fix for a path that is no checkpoint, by what it is."""
    if path.is_file():
        kind = FORMATS.get(path.suffix)
        if path.suffix == "" and path.open("rb").read(4) == b"GGUF":
            kind = "GGUF"
        if kind is not None:
            return f"give the folder of the checkpoint in safetensors that the {kind} file was made from"
        return f"give its folder: {path.parent}" if is_model(path.parent) else "give the folder of a checkpoint"
    if found := checkpoints_below(path):
        names = [str(one) for one in found[:LISTED]]
        return f"did you mean {' or '.join(names)}?"
    other = sorted({kind for suffix, kind in FORMATS.items() if any(path.glob(f"*{suffix}"))})
    if other:
        return f"give the checkpoint in safetensors that the {', '.join(other)} file was made from"
    if any(path.glob("*.safetensors")):
        adapter = any(path.glob(f"{ADAPTER}*"))
        return f"copy {'adapter_config.json' if adapter else 'config.json'} from where the weights come from"
    return "give the `checkpoint` folder of a finished stage, such as runs/tiny/sft/checkpoint"


def misspelt(name: str | Path) -> str | None:
    """Return the fix for the name of a folder that does not exist: `did you mean runs/tickets/sft/checkpoint?`.

    Each misspelt part of the path is replaced. For a name without a slash, which may be a hub id, only a folder with a
    checkpoint is suggested.
    """
    path = Path(name).expanduser()
    root = Path(path.anchor)
    for found in _similar(root, path.relative_to(root).parts if path.anchor else path.parts):
        if len(path.parts) > 1 or is_model(found) or checkpoints_below(found):
            return f"did you mean {found}?"
    return None


def _similar(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """Yield the folders below a folder at a path, in which names may be misspelt; the more similar come first."""
    if not parts:
        yield folder
        return
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    except OSError:  # not ours to read
        return
    exact = [".."] if parts[0] == ".." else [name for name in names if name == parts[0]]
    for name in dict.fromkeys([*exact, *nearest(parts[0], names, count=3)]):
        yield from _similar(folder / name, parts[1:])


def _step(path: Path) -> int:
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1

"""Save and load eval runs (`run.json` and `items.parquet`), and the digests that identify what was measured."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.durable.atomic import disk_full_explained, new_file, write_json
from alignment.durable.manifest import damage_of_file, digests, entry_of
from alignment.durable.read import read_json
from alignment.durable.unwritable import errors_of_place, make_folder
from alignment.errors import UserError, raise_all
from alignment.models.checkpoints import adapter_base
from alignment.redaction import redacted

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedTokenizerBase

AGAIN = "remove its folder and evaluate again"
WEIGHTS = (".safetensors", ".bin")
# What a comparison reads: the keys of run.json with their types, and columns of items.parquet.
RECORD: dict[str, type | tuple[type, ...]] = {
    "suite": str,
    "format": str,
    "suite_digest": str,
    "stage": (str, type(None)),
    "tasks": list,
    "settings": dict,
    "seeds": dict,
}
ITEM_COLUMNS = ("task", "metric", "item_id", "cluster", "prompt", "target", "output", "score", "weight")
LONGEST_NAME, LONGEST_KEPT = 255, 200  # bytes of a folder's name on Linux; of a shortened name, before its digest
LIBRARIES = ("torch", "transformers", "peft", "datasets", "lm_eval")


class ForeignRecord(UserError):
    """A run.json with none of an eval run's keys: that of another program."""


@dataclass(frozen=True)
class Run:
    """One eval run: the record of run.json, and the rows of items.parquet (one per task, metric and item)."""

    path: Path
    record: dict
    items: pandas.DataFrame


def run_name(stage: str, suite: str, format: str, variant: dict) -> str:
    """Name of a run's folder: `sft-tinyworld-chat`, or with a variant `sft-tinyworld-chat-limit-2`.

    A name that is longer than file systems allow keeps its beginning, and ends with a digest of the whole.
    """
    name = "-".join([stage, suite, format, *(re.sub(r"[^\w.]+", "_", part) for part in variant_words(variant))])
    encoded = name.encode()
    if len(encoded) <= LONGEST_NAME:
        return name
    return f"{encoded[:LONGEST_KEPT].decode(errors='ignore')}-{sha256_of_text(name)[:8]}"


def variant_words(variant: dict) -> list[str]:
    """The options that set a run apart, in words: `split`, `validation`; nested options by their own names."""
    words: list[str] = []
    for key, value in variant.items():
        words += variant_words(value) if isinstance(value, dict) else [key, str(value)]
    return words


def save_run(path: str | Path, record: dict, items: pandas.DataFrame) -> dict:
    """Write a run and return its record; run.json is written last and atomically, so that its presence marks a whole
    run.

    Raises:
        UserError: the folder cannot be written.
    """
    path = Path(path)
    make_folder(path)
    with errors_of_place(path):
        (path / "run.json").unlink(missing_ok=True)
    with disk_full_explained(f"the evaluation in {path}", path):
        with new_file(path / "items.parquet") as partial:
            items.to_parquet(partial, index=False)
        record = record | {"items": entry_of(path / "items.parquet")}
        write_json(path / "run.json", redacted(record))
    return record


def load_run(path: str | Path) -> Run:
    """Read a run.

    Raises:
        UserError: the folder holds no complete run, or one whose files are damaged.
    """
    path = Path(path)
    if not (path / "run.json").exists():
        raise UserError("Not an eval run.", got=path, expected="a folder with run.json and items.parquet")
    record = read_record(path)
    if "items" in record:  # older runs lack the entry
        found = damage_of_file(path / "items.parquet", "items.parquet", record["items"])
        if found:
            raise UserError(f"the eval run {path} is damaged", got=found[0], fix=AGAIN)
    return Run(path, record, _read_items(path / "items.parquet"))


def _read_items(file: Path) -> pandas.DataFrame:
    import pandas
    from pyarrow import ArrowException

    try:
        items = pandas.read_parquet(file)
    except (ArrowException, OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read", got=error, expected="the items of an eval run", fix=AGAIN) from error
    if missing := [name for name in ITEM_COLUMNS if name not in items.columns]:
        raise UserError(
            f"{file} does not hold the items of an eval run",
            got=f"columns {', '.join(map(str, items.columns))}",
            expected=f"also {', '.join(missing)}",
            fix=AGAIN,
        )
    return items


def require_not_others(folders: list[Path], checkpoint: str | Path, stage: str) -> None:
    """Raise if a run would overwrite a run of another checkpoint with the same name."""
    refused = [
        UserError(
            f"{folder} holds an eval run of another checkpoint with that name",
            got=other,
            expected=f"another folder for the run of {checkpoint}",
            fix="set --output_dir, or remove the existing run",
        )
        for folder in folders
        if (other := other_checkpoint(folder, checkpoint, stage))
    ]
    raise_all(refused)


def other_checkpoint(folder: Path, checkpoint: str | Path, stage: str) -> str | None:
    """The checkpoint of the run in a folder if it is another one; None also without a run.

    In its own run directory (which may have been moved) a stage's checkpoint is the only one with its name.
    """
    own = (Path(os.path.abspath(folder)).parent.parent / stage / "checkpoint").resolve()
    if Path(checkpoint).resolve() == own or not (folder / "run.json").is_file():
        return None
    found = read_record(folder)["checkpoint"]
    return found if Path(found).resolve() != Path(checkpoint).resolve() else None


def is_whole(path: Path) -> bool:
    """Whether a folder holds a complete, undamaged run."""
    try:
        record = read_json(path / "run.json")
    except (OSError, UserError):
        return False
    return "items" not in record or not damage_of_file(path / "items.parquet", "items.parquet", record["items"])


def read_record(path: Path) -> dict:
    """The run.json of a run's folder.

    Raises:
        UserError: the file is damaged, or not that of an eval run.
    """
    file = path / "run.json"
    try:
        record = read_json(file, AGAIN)
    except OSError as error:
        raise UserError(f"{file} cannot be read", got=error, expected="the record of an eval run", fix=AGAIN) from error
    wrong = [name for name, kind in RECORD.items() if name not in record or not isinstance(record[name], kind)]
    wrong += [name for name in ("variant", "versions") if not isinstance(record.get(name) or {}, dict)]
    if not wrong and not all(map(_is_figure, record["tasks"])):
        wrong = ["tasks"]
    if not _are_left_out(record.get("left_out", [])):  # older runs lack the key
        wrong.append("left_out")
    if wrong:
        raise (UserError if RECORD.keys() & record.keys() else ForeignRecord)(
            f"{file} is not that of an eval run",
            got=f"keys {', '.join(list(record)[:12]) or 'none'}",
            expected=f"{', '.join(wrong)}, as `align eval` writes them",
            fix=f"give another folder; if it was an eval run, {AGAIN}",
        )
    return record


def _is_figure(figure: object) -> bool:
    """Whether an entry of a record's tasks has what a comparison reads; it reads more of figures that are means."""
    if not isinstance(figure, dict) or not {"task", "metric", "is_mean"} <= figure.keys():
        return False
    return not figure["is_mean"] or {"members", "pooled", "higher_is_better"} <= figure.keys()


def _are_left_out(entries: object) -> bool:
    """Whether a record's `left_out` has what a comparison reads."""
    return isinstance(entries, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("task"), str)
        and isinstance(entry.get("items"), list)
        and all(isinstance(item, str) for item in entry["items"])
        and isinstance(entry.get("n"), int)
        and isinstance(entry.get("of"), int)
        for entry in entries
    )


def checkpoint_digest(checkpoint: str | Path) -> str | None:
    """SHA-256 over the names and bytes of a checkpoint's weight files, including an adapter's base.

    None if the checkpoint is not a local folder (a hub id).
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for name, sha256 in sorted(digests(folder).items()):
        if name.endswith(WEIGHTS) and "/" not in name:
            digest.update(name.encode() + bytes.fromhex(sha256))
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        settings = json.loads(adapter.read_text(encoding="utf-8"))
        del settings["base_model_name_or_path"]  # a path: the base's digest is added below
        for earlier in sorted(folder.glob("earlier_*")):
            digest.update((checkpoint_digest(earlier) or "").encode())
        base = adapter_base(folder)
        digest.update((checkpoint_digest(base) or base).encode() + json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a fast tokenizer's serialised state, or of another tokenizer's vocabulary."""
    if not tokenizer.is_fast:
        return sha256_of_text(json.dumps(tokenizer.get_vocab(), sort_keys=True))
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings.pop("padding"), settings.pop("truncation")  # state of the latest call
    return sha256_of_text(json.dumps(settings, sort_keys=True))


def template_digest(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """SHA-256 of the chat template; None without a template."""
    return sha256_of_text(str(tokenizer.chat_template)) if tokenizer.chat_template else None


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that scores can depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def sha256_of_text(text: str) -> str:
    """SHA-256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()

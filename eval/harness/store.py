"""Save and load eval runs (`run.json` and `items.parquet`), and the digests that identify what was measured."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.durable.atomic import disk_full_explained, new_file, write_json
from alignment.durable.manifest import damage_of_file, digests, entry_of
from alignment.durable.read import read_json
from alignment.errors import UserError, raise_all
from alignment.models.checkpoints import adapter_base
from alignment.redaction import redacted

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedTokenizerBase

AGAIN = "remove its folder and evaluate again"
WEIGHTS = (".safetensors", ".bin")
LIBRARIES = ("torch", "transformers", "peft", "datasets", "lm_eval")


@dataclass(frozen=True)
class Run:
    """One eval run: the record of run.json, and the rows of items.parquet (one per task, metric and item)."""

    path: Path
    record: dict
    items: pandas.DataFrame


def run_name(stage: str, suite: str, format: str, variant: dict) -> str:
    """Name of a run's folder: `sft-tinyworld-chat`, or with a variant `sft-tinyworld-chat-limit-2`."""
    return "-".join([stage, suite, format, *(re.sub(r"[^\w.]+", "_", part) for part in variant_words(variant))])


def variant_words(variant: dict) -> list[str]:
    """The options that set a run apart, in words: `split`, `validation`; nested options by their own names."""
    words: list[str] = []
    for key, value in variant.items():
        words += variant_words(value) if isinstance(value, dict) else [key, str(value)]
    return words


def save_run(path: str | Path, record: dict, items: pandas.DataFrame) -> dict:
    """Write a run and return its record; run.json is written last and atomically, so that its presence marks a whole
    run."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
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
    import pandas

    path = Path(path)
    if not (path / "run.json").exists():
        raise UserError("Not an eval run.", got=path, expected="a folder with run.json and items.parquet")
    record = read_record(path)
    if "items" in record:  # older runs lack the entry
        found = damage_of_file(path / "items.parquet", "items.parquet", record["items"])
        if found:
            raise UserError(f"the eval run {path} is damaged", got=found[0], fix=AGAIN)
    return Run(path, record, pandas.read_parquet(path / "items.parquet"))


def require_not_others(folders: list[Path], checkpoint: str | Path, stage: str) -> None:
    """Raise if a run would overwrite a run of another checkpoint with the same name.

    In its own run directory (which may have been moved) a stage's checkpoint is the only one with its name.
    """
    refused = []
    for folder in folders:
        own = Path(checkpoint).resolve() == (folder.parents[1] / stage / "checkpoint").resolve()
        if own or not (folder / "run.json").is_file():
            continue
        other = read_record(folder)["checkpoint"]
        if Path(other).resolve() != Path(checkpoint).resolve():
            refused.append(
                UserError(
                    f"{folder} holds an eval run of another checkpoint with that name",
                    got=other,
                    expected=f"another folder for the run of {checkpoint}",
                    fix="set --output_dir, or remove the existing run",
                )
            )
    raise_all(refused)


def is_whole(path: Path) -> bool:
    """Whether a folder holds a complete, undamaged run."""
    try:
        record = read_record(path)
    except (FileNotFoundError, UserError):
        return False
    return "items" not in record or not damage_of_file(path / "items.parquet", "items.parquet", record["items"])


def read_record(path: Path) -> dict:
    """The run.json of a run's folder."""
    return read_json(path / "run.json", AGAIN)


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
        return _sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True))
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings.pop("padding"), settings.pop("truncation")  # state of the latest call
    return _sha256(json.dumps(settings, sort_keys=True))


def template_digest(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """SHA-256 of the chat template; None without a template."""
    return _sha256(str(tokenizer.chat_template)) if tokenizer.chat_template else None


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that scores can depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

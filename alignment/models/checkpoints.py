"""Checkpoints by name: whether a name is a path or a hub id, the base of an adapter, and whether loading is safe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignment.durable.manifest import FIX_DAMAGE, LINEAGE, MANIFEST, digest_checkpoint, require_intact
from alignment.durable.read import read_json
from alignment.durable.steps import PROGRESS_FILE
from alignment.errors import UserError
from alignment.models.chain import read_chain, require_whole

ADAPTER_CONFIG = "adapter_config.json"
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
ARGUMENTS = "training_args.bin"  # written by Trainer, never read here


def is_path(name: str) -> bool:
    """Return whether the name of a model is a local path; otherwise it is a hub id.

    `runs/nowhere` has the form of a hub id, but is a path if there is a folder `runs`.
    """
    sibling = Path(name).expanduser().parent
    below_a_folder = sibling != Path(".") and sibling.is_dir()
    return Path(name).exists() or below_a_folder or name.startswith((".", "/", "~")) or name.count("/") > 1


def is_adapter(checkpoint: str | Path) -> bool:
    """Return whether a checkpoint (folder or hub id) is an adapter; False if it cannot be reached."""
    return adapter_config(checkpoint) is not None


def adapter_config(checkpoint: str | Path) -> Path | None:
    """Return the path of an adapter's config file, or None if the checkpoint is no adapter."""
    if isinstance(checkpoint, Path) or is_path(checkpoint):
        file = Path(checkpoint) / ADAPTER_CONFIG
        return file if file.is_file() else None
    from transformers.utils import find_adapter_config_file

    with explained(checkpoint):  # transformers raises for a name that cannot be a hub id
        file = find_adapter_config_file(checkpoint)
    return None if file is None else Path(file)


def adapter_base(checkpoint: str | Path) -> str:
    """Return the base of an adapter: the recorded path or hub id, or its place in the adapter's present run directory.

    After a run directory was copied, both places may have a base: the one in the adapter's run directory is taken,
    unless the adapter's lineage says that it was trained on the other.

    Raises:
        UserError: the base is at neither place and does not look like a hub id, or the checkpoint is no adapter.
    """
    config = adapter_config(checkpoint)
    if config is None:
        raise UserError(f"{checkpoint} is no adapter", expected=f"a folder with {ADAPTER_CONFIG}")
    recorded = read_json(config, FIX_DAMAGE)["base_model_name_or_path"]
    sibling = Path(checkpoint).resolve().parents[1].joinpath(*Path(recorded).parts[-2:])
    places = [str(place) for place in (sibling, recorded) if Path(place).is_dir()]
    if Path(recorded).is_dir() and sibling.is_dir():
        if sibling.samefile(recorded):
            return recorded
        digest = trained_on(checkpoint)
        return next((place for place in places if digest_checkpoint(place) == digest), recorded)
    if places:
        return places[0]
    if not is_path(recorded):
        return recorded
    raise UserError(
        f"{checkpoint} is an adapter whose base model is missing",
        got=f"no {recorded}, and no {sibling}",
        expected="the base checkpoint that the adapter was trained on",
        fix=f"restore it, or copy it to {sibling}",
    )


def adapter_folder(checkpoint: str | Path) -> Path:
    """Return the folder of an adapter; for a hub id, the folder of the local cache with its whole chain."""
    if isinstance(checkpoint, Path) or is_path(checkpoint):
        return Path(checkpoint)
    from huggingface_hub import snapshot_download

    with explained(checkpoint):
        files = ["adapter_*", "*/adapter_*", "generation_config.json"]
        return Path(snapshot_download(checkpoint, allow_patterns=files))


def has_earlier_adapters(checkpoint: str | Path) -> bool:
    """Return whether there are other adapters between an adapter and its base."""
    chain = read_chain(adapter_folder(checkpoint)) if is_adapter(checkpoint) else None
    return chain is not None and bool(chain.earlier)


def changes_its_base(checkpoint: str | Path) -> bool:
    """Return whether an adapter needs more than its bare base: earlier adapters, or rows for new tokens."""
    chain = read_chain(adapter_folder(checkpoint)) if is_adapter(checkpoint) else None
    return chain is not None and bool(chain.earlier or chain.grown_to)


def recorded_quantization(checkpoint: str | Path) -> dict[str, Any] | None:
    """Return how an adapter's base was quantised in training; None if it was not, or without a record."""
    chain = read_chain(adapter_folder(checkpoint))
    return None if chain is None else chain.quantization


def lasting_changes(checkpoint: str | Path) -> str | None:
    """Return why a model with its adapter turned off differs from the adapter's base; None if it does not."""
    folder = adapter_folder(checkpoint)
    chain = read_chain(folder)
    if chain is not None and chain.grown_to:
        return "its embeddings were grown for new tokens"
    if chain is not None and chain.quantization:
        return "the adapter's base is quantised"
    links = [folder / link.folder for link in chain.links] if chain is not None else [folder]
    settings = [read_json(link / ADAPTER_CONFIG, FIX_DAMAGE) for link in links]
    if any(one.get("trainable_token_indices") for one in settings[:-1]):
        return "earlier adapters trained rows of its embeddings"
    return "the adapter trained its biases" if any(one.get("bias", "none") != "none" for one in settings) else None


def trained_on(adapter: str | Path) -> str | None:
    """Return the digest of the base that an adapter was trained on; None without a lineage."""
    return (read_lineage(adapter) or {}).get("base_digest")


def read_lineage(checkpoint: str | Path) -> dict | None:
    """Read a checkpoint's lineage.json; None without one."""
    path = Path(checkpoint) / LINEAGE
    return read_json(path, FIX_DAMAGE) if path.is_file() else None


def require_sound(checkpoint: str | Path, *, weights: bool = True) -> None:
    """Raise for a local checkpoint that must not be loaded: damaged, with pickled weights, or on another base.

    Hub ids pass, and so do folders without a manifest unless another file shows that this project wrote them.

    Args:
        weights: check the weights and an adapter's base too; otherwise only config and tokenizer.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return
    if any((folder / name).is_file() for name in (MANIFEST, LINEAGE, PROGRESS_FILE)):
        require_intact(folder, weights=weights)
    if not weights:
        return
    require_safetensors(folder)
    if is_adapter(folder):
        base, digest = adapter_base(folder), trained_on(folder)
        require_sound(base)
        if digest is not None and Path(base).is_dir() and digest_checkpoint(base) != digest:
            raise UserError(
                f"{folder} is an adapter whose base model has changed",
                got=f"{base}, which is not the model that the adapter was trained on",
                expected=f"the base with the model digest {digest[:12]}",
                fix="restore that base, or train the adapter again",
            )
        require_whole(folder, read_chain(folder), base)


def require_safetensors(folder: Path) -> None:
    """Raise for pickled weights: loading a pickle can run code that its author put there."""
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED and path.name != ARGUMENTS)
    if pickled and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"the weights of {folder} are pickled, and pickles are not loaded",
            got=", ".join(pickled[:6]),
            expected="model.safetensors or adapter_model.safetensors: a pickle can run code when it is read",
            fix="if you trust its author: python -c 'from transformers import AutoModelForCausalLM as M; "
            'M.from_pretrained("FOLDER").save_pretrained("NEW_FOLDER")\', and copy the tokenizer\'s files there',
        )


def require_checkpoint(checkpoint: str | Path) -> None:
    """Raise for a local path without a model; names that may be hub ids pass."""
    path = Path(checkpoint)
    if path.is_dir() and not (path / "config.json").is_file() and not is_adapter(path):
        raise UserError(
            f"{checkpoint} holds no model",
            got=", ".join(sorted(file.name for file in path.iterdir())[:6]) or "an empty folder",
            expected="config.json with weights, or adapter_config.json",
            fix="give the `checkpoint` folder of a finished stage, such as runs/tiny/sft/checkpoint",
        )
    if not path.exists() and is_path(str(checkpoint)):
        raise UserError(
            f"no checkpoint at {checkpoint}",
            expected="the folder of a checkpoint, or a hub id",
            fix="check the path; a stage's checkpoint is RUN_DIR/STAGE/checkpoint",
        )


@contextmanager
def explained(checkpoint: str | Path) -> Iterator[None]:
    """Turn transformers' errors about checkpoints that it cannot reach, read or run into a UserError."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise UserError(f"the weights of {checkpoint} are damaged", got=error, fix="copy them again") from error
    except OSError as error:
        if is_path(str(checkpoint)):
            raise
        raise UserError(
            f"cannot load {checkpoint}",
            got=str(error).strip().splitlines()[0],
            expected="a checkpoint folder, or the id of a model on the hub that this machine can reach",
            fix="check the name; offline, only models in the local cache load",
        ) from error
    except ValueError as error:
        if "custom code" not in str(error):
            raise
        raise UserError(
            f"{checkpoint} needs its own code to load, and code of a checkpoint is never run",
            expected="an architecture that transformers or this project has",
            fix="for a checkpoint that `align export --to self-contained` made: remove auto_map from its config.json",
        ) from error

"""Checkpoints by name: whether a name is a path or a hub id, the base of an adapter, and whether loading is safe."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignment.durable.manifest import FIX_DAMAGE, LINEAGE, MANIFEST, digest_checkpoint, require_intact
from alignment.durable.read import read_json
from alignment.durable.steps import PROGRESS_FILE
from alignment.errors import UserError
from alignment.models.chain import read_chain, require_whole
from alignment.models.examined.adapter_settings import ADAPTER_CONFIG, named_base
from alignment.models.examined.folder_contents import advice, is_model, listed, misspelt

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
ARGUMENTS = "training_args.bin"  # written by Trainer, never read here
TEXTS = ("digest", "base_digest", "recipe_digest", "code")  # of a lineage, each optional
# Errors of transformers, PEFT and torch for checkpoints that they cannot use.
REFUSALS = (
    OSError, ValueError, RuntimeError, KeyError, IndexError, TypeError, AttributeError, ImportError, ZeroDivisionError,
    AssertionError, re.error,
)  # fmt: skip


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
        return Path(checkpoint) / ADAPTER_CONFIG if is_adapter_folder(checkpoint) else None
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
    recorded = named_base(config)
    base = _place_of_base(checkpoint, config.parent, recorded)
    if is_adapter_folder(base):
        raise UserError(
            f"{checkpoint} is an adapter whose base is an adapter itself",
            got=f"{base}, which holds {ADAPTER_CONFIG}",
            expected="a full model as the base",
            fix=f"merge that adapter first (`align merge {base} --output_dir NEW`), and name NEW as the base",
        )
    return base


def is_adapter_folder(name: str | Path) -> bool:
    """Return whether a local folder is an adapter; a hub id is not looked up."""
    return (Path(name) / ADAPTER_CONFIG).is_file()


def _place_of_base(checkpoint: str | Path, folder: Path, recorded: str) -> str:
    """Return where the base is that an adapter records by a path or hub id.

    Args:
        folder: the adapter's own folder; a path may be relative to it.
    """
    run_dir = (Path(checkpoint).resolve().parents[1:2] or [Path("/")])[0]
    sibling = run_dir.joinpath(*Path(recorded).parts[-2:])
    relative = folder / recorded
    places = [str(place) for place in (sibling, recorded, relative) if Path(place).is_dir()]
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
    if not path.is_file():
        return None
    content = read_json(path, FIX_DAMAGE)
    if fault := _fault_of_lineage(content):
        raise UserError(f"{path} is damaged", got=fault, expected="a lineage as it was written", fix=FIX_DAMAGE)
    return content


def _fault_of_lineage(content: Any) -> str | None:
    """Return what is wrong with a lineage, or with that of one of its parents; None if nothing is."""
    if not isinstance(content, dict):
        return f"a parent of type {type(content).__name__}"
    texts = ("from",) if "from" in content else ("stage", "method")
    wrong = [name for name in texts if not isinstance(content.get(name), str)]
    wrong += [name for name in TEXTS if not isinstance(content.get(name), str | None)]
    parents: Any = content.get("parents", {} if "from" in content else None)
    base, data = content.get("base"), content.get("data")
    wrong += ["parents"] if not isinstance(parents, dict) else []
    wrong += ["base"] if not isinstance(base, dict if content.get("adapter") is True else dict | None) else []
    digests = data.values() if isinstance(data, dict) else [data]
    wrong += ["data"] if not all(isinstance(one, str | None) for one in digests) or isinstance(data, str) else []
    if wrong:
        return ", ".join(f"{name}: {content.get(name)!r}" for name in wrong)
    return next(filter(None, map(_fault_of_lineage, parents.values())), None)


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
    if path.exists() and not is_model(path):
        raise UserError(
            f"{checkpoint} holds no model",
            got=listed(path) if path.is_dir() else "a file",
            expected="config.json with weights, or adapter_config.json",
            fix=advice(path),
        )
    if not path.exists() and is_path(str(checkpoint)):
        raise UserError(
            f"no checkpoint at {checkpoint}",
            expected="the folder of a checkpoint, or a hub id",
            fix=misspelt(checkpoint) or "check the path; a stage's checkpoint is RUN_DIR/STAGE/checkpoint",
        )


@contextmanager
def explained(checkpoint: str | Path, part: str = "") -> Iterator[None]:
    """Turn a library's errors about a checkpoint that it cannot reach, read, build or run into a UserError.

    Args:
        part: what is loaded of the checkpoint, for the message: `the tokenizer of `.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise UserError(f"the weights of {checkpoint} are damaged", got=error, fix="copy them again") from error
    # What transformers and torch raise for a config that describes no model, and for files that are not what they seem.
    except (*REFUSALS, StrictDataclassError) as error:
        if is_full_memory(error):
            raise UserError(
                f"{checkpoint} does not fit into memory",
                got=summary(error),
                fix="a machine with more memory, a dtype of 16 bits, or correct the sizes in config.json",
            ) from error
        if "custom code" in str(error):
            raise UserError(
                f"{checkpoint} needs its own code to load, and code of a checkpoint is never run",
                expected="an architecture that transformers or this project has",
                fix="for a checkpoint that `align export --to self-contained` made: remove auto_map from its "
                "config.json",
            ) from error
        local = is_path(str(checkpoint))
        raise UserError(
            f"cannot load {part}{checkpoint}",
            got=summary(error),
            expected="a whole checkpoint, as save_pretrained writes it"
            if local
            else "a checkpoint folder, or the id of a model on the hub that this machine can reach",
            fix="copy or download it again, config.json included"
            if local
            else misspelt(checkpoint) or "check the name; offline, only models in the local cache load",
        ) from error


def is_full_memory(error: Exception) -> bool:
    """Return whether a library's error says that memory is full: the checkpoint is not at fault."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def summary(error: Exception) -> str:
    """Return an error's first line; for errors whose message is a bare value, with the kind of error."""
    text = (str(error).strip() or repr(error)).splitlines()
    sizes = next((line.strip() for line in text if "size mismatch" in line), None)
    if "Validation error" in text[0]:  # the field is in the first line, the reason in the next
        return " ".join(line.strip() for line in text)
    bare = isinstance(error, KeyError | ZeroDivisionError | AttributeError | IndexError | TypeError)
    return sizes or (f"{type(error).__name__}: {text[0]}" if bare else text[0])

"""Which checkpoint a name means, what an adapter sits on, and whether a checkpoint may be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignment.durable.manifest import LINEAGE, MANIFEST, MEND, digest_checkpoint, require_intact
from alignment.durable.read import read_json
from alignment.durable.steps import PROGRESS_FILE
from alignment.errors import UserError
from alignment.models.chain import read_chain, require_whole

ADAPTER_CONFIG = "adapter_config.json"
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
ARGUMENTS = "training_args.bin"  # Trainer's, which nothing reads


def is_path(name: str) -> bool:
    """Whether the name of a model means a local path; what does not is a hub id.

    `runs/nowhere` is a path where there is a folder `runs`, though it has the form of a hub id.
    """
    beside = Path(name).expanduser().parent
    below_a_folder = beside != Path(".") and beside.is_dir()
    return Path(name).exists() or below_a_folder or name.startswith((".", "/", "~")) or name.count("/") > 1


def is_adapter(checkpoint: str | Path) -> bool:
    """Whether a checkpoint (folder or hub id) is an adapter; what cannot be reached is none."""
    return adapter_config(checkpoint) is not None


def adapter_config(checkpoint: str | Path) -> Path | None:
    if isinstance(checkpoint, Path) or is_path(checkpoint):
        file = Path(checkpoint) / ADAPTER_CONFIG
        return file if file.is_file() else None
    from transformers.utils import find_adapter_config_file

    with explained(checkpoint):  # what can be no hub id is refused there
        file = find_adapter_config_file(checkpoint)
    return None if file is None else Path(file)


def adapter_base(checkpoint: str | Path) -> str:
    """The base that an adapter sits on: as recorded, or in the run directory that the adapter lies in now.

    A run directory that was copied has bases at both places: the adapter's own is the one beside it, unless its lineage
    says that it was trained on another.

    Raises:
        UserError: the base is at neither place and does not look like a hub id.
    """
    config = adapter_config(checkpoint)
    if config is None:
        raise UserError(f"{checkpoint} is no adapter", expected=f"a folder with {ADAPTER_CONFIG}")
    recorded = read_json(config, MEND)["base_model_name_or_path"]
    beside = Path(checkpoint).resolve().parents[1].joinpath(*Path(recorded).parts[-2:])
    places = [str(place) for place in (beside, recorded) if Path(place).is_dir()]
    if Path(recorded).is_dir() and beside.is_dir():
        if beside.samefile(recorded):
            return recorded
        digest = trained_on(checkpoint)
        return next((place for place in places if digest_checkpoint(place) == digest), recorded)
    if places:
        return places[0]
    if not is_path(recorded):
        return recorded
    raise UserError(
        f"{checkpoint} is an adapter whose base model is missing",
        got=f"no {recorded}, and no {beside}",
        expected="the base checkpoint that the adapter was trained on",
        fix=f"put it back, or to {beside}",
    )


def adapter_folder(checkpoint: str | Path) -> Path:
    """The folder of an adapter; of one on the hub where its files are cached, those of its whole chain."""
    if isinstance(checkpoint, Path) or is_path(checkpoint):
        return Path(checkpoint)
    from huggingface_hub import snapshot_download

    with explained(checkpoint):
        files = ["adapter_*", "*/adapter_*", "generation_config.json"]
        return Path(snapshot_download(checkpoint, allow_patterns=files))


def has_earlier_adapters(checkpoint: str | Path) -> bool:
    """Whether other adapters stand between an adapter and its base."""
    chain = read_chain(adapter_folder(checkpoint)) if is_adapter(checkpoint) else None
    return chain is not None and bool(chain.earlier)


def changes_its_base(checkpoint: str | Path) -> bool:
    """Whether an adapter is loaded on something else than its bare base: earlier adapters, or rows for new tokens."""
    chain = read_chain(adapter_folder(checkpoint)) if is_adapter(checkpoint) else None
    return chain is not None and bool(chain.earlier or chain.grown_to)


def recorded_quantization(checkpoint: str | Path) -> dict[str, Any] | None:
    """How an adapter's base was quantised in training; None where it was not, or nothing is recorded."""
    chain = read_chain(adapter_folder(checkpoint))
    return None if chain is None else chain.quantization


def lasting_changes(checkpoint: str | Path) -> str | None:
    """Why the model of an adapter is not its base where the adapter is turned off; None where it is."""
    folder = adapter_folder(checkpoint)
    chain = read_chain(folder)
    if chain is not None and chain.grown_to:
        return "its embeddings were grown for new tokens"
    if chain is not None and chain.quantization:
        return "the adapter's is quantised"
    links = [folder / link.folder for link in chain.links] if chain is not None else [folder]
    settings = [read_json(link / ADAPTER_CONFIG, MEND) for link in links]
    if any(one.get("trainable_token_indices") for one in settings[:-1]):
        return "earlier adapters trained rows of its embeddings"
    return "the adapter trained its biases" if any(one.get("bias", "none") != "none" for one in settings) else None


def trained_on(adapter: str | Path) -> str | None:
    """The digest of the base that an adapter was trained on; None where its lineage was not kept."""
    return (read_lineage(adapter) or {}).get("base_digest")


def read_lineage(checkpoint: str | Path) -> dict | None:
    """What a checkpoint's own lineage.json says; None where it has none."""
    path = Path(checkpoint) / LINEAGE
    return read_json(path, MEND) if path.is_file() else None


def require_sound(checkpoint: str | Path, *, weights: bool = True) -> None:
    """Raise for a local checkpoint that must not be loaded: damaged, with pickled weights, or on another base.

    What no manifest was written for passes, unless another file shows that it is ours; so do hub ids.

    Args:
        weights: look at the weights too, and at an adapter's base; without, at config and tokenizer alone.
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
                got=f"{base}, which is not what the adapter was trained on",
                expected=f"the base whose model digest is {digest[:12]}",
                fix="put that base back, or train the adapter again",
            )
        require_whole(folder, read_chain(folder), base)


def require_safetensors(folder: Path) -> None:
    """Raise for weights that only pickle reads: whatever made such a file could run its own code here."""
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED and path.name != ARGUMENTS)
    if pickled and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"the weights of {folder} are pickled, and are not loaded",
            got=", ".join(pickled[:6]),
            expected="model.safetensors or adapter_model.safetensors: a pickle can run code when it is read",
            fix="where you trust its maker: python -c 'from transformers import AutoModelForCausalLM as M; "
            'M.from_pretrained("FOLDER").save_pretrained("NEW_FOLDER")\', and copy the tokenizer\'s files there',
        )


def require_checkpoint(checkpoint: str | Path) -> None:
    """Raise for a local path without a model; what may be a hub id passes."""
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
    """What transformers says of what it cannot reach, read or run, as a mistake that the user can mend."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise UserError(f"the weights of {checkpoint} are damaged", got=error, fix="get them anew") from error
    except OSError as error:
        if is_path(str(checkpoint)):
            raise
        raise UserError(
            f"cannot load {checkpoint}",
            got=str(error).strip().splitlines()[0],
            expected="a checkpoint folder, or the id of a model on the hub that can be reached from here",
            fix="check the name; offline, only models in the local cache load",
        ) from error
    except ValueError as error:
        if "custom code" not in str(error):
            raise
        raise UserError(
            f"{checkpoint} needs code of its own to load, and code of a checkpoint is never run here",
            expected="an architecture that transformers or this project has",
            fix="for a checkpoint that `align export --to self-contained` made: remove auto_map from its config.json",
        ) from error

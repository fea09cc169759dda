"""Checkpoints and adapters with missing, damaged or foreign parts: models with the files' weights, or a refusal."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import ragged
import torch
from fuzzing import SCALARS, VALUES, fuzz, outcome
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from alignment.models.loading import load_causal_lm, load_trainable
from reward_models.learned import reward

TEMPORARY = TemporaryDirectory(prefix="fuzz-checkpoints-")
KINDS = ("causal", "gpt", "classifier", "adapter")
BASE = "base"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@cache
def originals() -> Path:
    """A folder with a sound checkpoint of each kind, and the adapter's base."""
    root = Path(TEMPORARY.name)
    words = ragged.tokenizer("chatml")
    for name, model in {
        "causal": ragged.model("llama", words),
        "gpt": ragged.model("gpt", words),
        "classifier": ragged.model("llama", words, head="score"),
        BASE: ragged.model("llama", words, seed=1),
    }.items():
        model.save_pretrained(root / name)
        words.save_pretrained(root / name)
    from transformers import AutoModelForCausalLM

    adapted = ragged.adapted(AutoModelForCausalLM.from_pretrained(root / BASE), task_type="CAUSAL_LM")
    adapted.save_pretrained(root / "adapter")
    words.save_pretrained(root / "adapter")
    return root


def names_of(kind: str) -> list[str]:
    return sorted(file.name for file in (originals() / kind).iterdir() if file.is_file())


def tensors_of(kind: str) -> list[str]:
    return sorted(load_file(weights_of(originals() / kind)))


def weights_of(folder: Path) -> Path:
    names = ("model.safetensors", "adapter_model.safetensors")
    return next(folder / name for name in names if (folder / name).exists())


@st.composite
def damages(draw) -> tuple[str, list[tuple]]:
    """A kind of checkpoint, and one or two changes: (name of the change, its arguments)."""
    kind = draw(st.sampled_from(KINDS))
    files, tensors = names_of(kind), tensors_of(kind)
    jsons = [name for name in files if name.endswith(".json") and "manifest" not in name]
    change = st.one_of(
        st.tuples(st.just("delete"), st.sampled_from(files)),
        st.tuples(st.just("cut"), st.sampled_from(files), st.floats(0, 1)),
        st.tuples(st.just("overwrite"), st.sampled_from(files), st.sampled_from([b"", b"{}", b"[]", b"null", POINTER])),
        st.tuples(st.just("bytes"), st.sampled_from(files), st.floats(0, 1), st.binary(min_size=1, max_size=4)),
        st.tuples(st.just("folder"), st.sampled_from(files)),
        st.tuples(st.just("key"), st.sampled_from(jsons), st.integers(0, 40), st.one_of(SCALARS, VALUES)),
        st.tuples(st.just("no key"), st.sampled_from(jsons), st.integers(0, 40)),
        st.tuples(
            st.just("tensor"),
            st.sampled_from(tensors),
            st.sampled_from(["drop", "rename", "grow", "transpose", "half", "nan", "integers", "empty"]),
        ),
    )
    return kind, draw(st.lists(change, min_size=1, max_size=2))


def apply(folder: Path, change: tuple) -> None:
    """Change a file of the checkpoint, if an earlier change has left it."""
    name, *given_ = change
    if name == "tensor":
        change_tensor(folder, *given_)
        return
    file = folder / given_[0]
    if not file.is_file():
        return
    if name == "delete":
        file.unlink()
    elif name == "cut":
        file.write_bytes(file.read_bytes()[: int(given_[1] * file.stat().st_size)])
    elif name == "overwrite":
        file.write_bytes(given_[1])
    elif name == "bytes":
        content = file.read_bytes()
        place = int(given_[1] * len(content))
        file.write_bytes(content[:place] + given_[2] + content[place + len(given_[2]) :])
    elif name == "folder":
        file.unlink()
        file.mkdir()
    else:
        change_key(file, name, *given_[1:])


def change_key(file: Path, name: str, place: int, value: object = None) -> None:
    try:
        values = json.loads(file.read_text())
    except ValueError:
        return
    if isinstance(values, dict) and values:
        key = sorted(values)[place % len(values)]
        if name == "key":
            values[key] = value
        else:
            del values[key]
        file.write_text(json.dumps(values))


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "grow": lambda tensor: torch.cat([tensor, tensor[:1]]),
    "transpose": lambda tensor: tensor.t().contiguous(),
    "half": lambda tensor: tensor.bfloat16(),
    "nan": lambda tensor: torch.full_like(tensor, torch.nan),
    "integers": lambda tensor: tensor.to(torch.int32),
    "empty": lambda tensor: tensor[:0],
}


def change_tensor(folder: Path, tensor: str, how: str) -> None:
    try:
        file = weights_of(folder)
        tensors = load_file(file)
    except (StopIteration, OSError, SafetensorError):  # an earlier change has taken the file or its content
        return
    if tensor not in tensors:
        return
    changed = tensors.pop(tensor)
    if how == "rename":
        tensors[f"x.{tensor}"] = changed
    elif how != "drop":
        tensors[tensor] = CHANGES[how](changed)
    save_file(tensors, file, {"format": "pt"})


def use(kind: str, folder: Path) -> None:
    """Load the checkpoint as evaluation, training and reward do; whatever loads has the weights of its files."""
    if kind == "classifier":
        scorer = outcome(lambda: reward(str(folder)))
        if scorer:
            require_own_weights(scorer.model, folder)
        return
    loaded = outcome(lambda: load_causal_lm(folder))
    if loaded and kind != "adapter":
        require_own_weights(loaded[0], folder)
    trained = outcome(lambda: load_trainable(folder, "causal-lm"))
    if trained is not None and kind == "adapter":
        require_own_adapter(trained, folder)


def require_own_weights(model, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert name in tensors, f"{name} has random weights"
        assert same(tensor, tensors[name]), f"{name} is not that of the file"


def same(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    return tensor.shape == other.shape and torch.equal(tensor.float().nan_to_num(7.0), other.float().nan_to_num(7.0))


def require_own_adapter(model, folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    own = {name.replace(".default", ""): tensor for name, tensor in model.state_dict().items() if "lora_" in name}
    assert own.keys() == tensors.keys()
    assert all(same(tensor, tensors[name]) for name, tensor in own.items())


def check_checkpoint(kind: str, changes: list[tuple]) -> None:
    with TemporaryDirectory(prefix="fuzz-") as root:
        folder = Path(root, kind)
        shutil.copytree(originals() / kind, folder)
        for change in changes:
            apply(folder, change)
        use(kind, folder)


@fuzz(100)
@given(damages())
def test_a_checkpoint_has_its_own_weights_or_is_refused(damage):
    check_checkpoint(*damage)


@pytest.mark.slow
@fuzz(5000)
@given(damages())
def test_many_checkpoints_have_their_own_weights_or_are_refused(damage):
    check_checkpoint(*damage)

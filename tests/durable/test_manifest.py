"""A manifest shows every kind of damage, and lets cards be written afterwards."""

import json

import pytest

from alignment.durable.manifest import MANIFEST, damage, read_manifest, require_intact, write_manifest
from alignment.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("a card")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "adapter.safetensors").write_bytes(b"abc")
    write_manifest(tmp_path)
    return tmp_path


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def rewrite(folder, **entries):
    content = json.loads((folder / MANIFEST).read_text())
    content["files"] |= entries
    (folder / MANIFEST).write_text(json.dumps(content))


def test_what_was_written_is_intact(folder):
    assert damage(folder) == []
    assert list(read_manifest(folder)) == ["config.json", "model.safetensors", "sub/adapter.safetensors"]
    require_intact(folder)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda folder: (folder / MANIFEST).write_bytes(b""), "manifest.json is damaged"),
        (lambda folder: (folder / MANIFEST).write_bytes(b"\xff"), "manifest.json is damaged"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "not a manifest of version"),
        (lambda folder: (folder / MANIFEST).write_text('{"version": 2, "files": {}}'), "not a manifest of version"),
        (lambda folder: rewrite(folder, **{"config.json": 3}), "no size and SHA-256"),
        (lambda folder: rewrite(folder, **{"../outside": {"size": 1, "sha256": ""}}), "lies outside"),
        (lambda folder: rewrite(folder, **{"/etc/passwd": {"size": 1, "sha256": ""}}), "lies outside"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: truncate(folder / "model.safetensors"), "has 10,239 bytes, but 10,240 were written"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "has 0 bytes"),
        (lambda folder: flip(folder / "sub" / "adapter.safetensors"), "sub/adapter.safetensors has been changed"),
        (
            lambda folder: (folder / "model-00001-of-00002.safetensors").write_text(""),
            "does not belong to the checkpoint",
        ),
        (lambda folder: (folder / "pytorch_model.bin").write_text(""), "does not belong to the checkpoint"),
        (lambda folder: (folder / "sub" / "modeling.py").write_text(""), "does not belong to the checkpoint"),
    ],
)
def test_damage_is_named(folder, harm, sentence):
    harm(folder)
    (found,) = damage(folder)
    assert sentence in found
    with pytest.raises(UserError, match="is damaged"):
        require_intact(folder)


def test_every_damage_is_named_at_once(folder):
    truncate(folder / "model.safetensors")
    (folder / "config.json").unlink()
    with pytest.raises(UserError) as raised:
        require_intact(folder, fix="do this")
    assert "config.json is missing; model.safetensors has" in str(raised.value)
    assert "do this" in str(raised.value)


def test_cards_and_hidden_files_may_come_and_change_afterwards(folder):
    (folder / "README.md").write_text("an edited card")
    (folder / "reward_card.json").write_text("{}")
    (folder / "curve.svg").write_text("<svg/>")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "state.json").write_text("{}")
    assert damage(folder) == []

"""No code from checkpoints is run, nothing is written outside the run, no secret is written or printed."""

import json
import logging
import pickle
from pathlib import Path
from types import SimpleNamespace

import ppo_tiny as tiny
import pytest
import tiny_stages
import torch
from peft import get_peft_model

import align
from alignment.durable.manifest import digest_checkpoint
from alignment.errors import UserError
from alignment.models.checkpoints import read_lineage
from alignment.models.interop import export_checkpoint
from alignment.models.loading import load_causal_lm, load_config, load_tokenizer
from alignment.pipeline.graph import load_stage
from alignment.redaction import MASK, redact_text, redacted
from alignment.report import write_report
from alignment.stages.shared import saving
from alignment.stages.shared.model_card import write_card
from alignment.stages.shared.result import StageResult
from eval.harness.store import save_run

TOKEN = "hf_" + "Ab1" * 12
SECRET_URL = "https://me:pa55word@example.org/rows.jsonl"


@pytest.mark.parametrize(
    "key",
    ["hub_token", "push_to_hub_token", "sft.hub_token", "token", "api_key", "OPENAI_API_KEY", "apikey", "password"],
)
def test_secrets_are_masked_by_their_keys(key):
    assert redacted({key: "abc"}) == {key: MASK}
    assert redacted({"nested": [{key: "abc"}]}) == {"nested": [{key: MASK}]}
    assert redacted({key: None}) == {key: None}


@pytest.mark.parametrize(
    "key", ["eos_token", "pad_token", "max_tokens", "num_tokens", "api_key_env", "trainable_token_indices", "tokenizer"]
)
def test_other_values_are_not_masked(key):
    assert redacted({key: "abc", "n": 3}) == {key: "abc", "n": 3}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (SECRET_URL, "https://***@example.org/rows.jsonl"),
        ("no file https:/me:pa55word@example.org/x", "no file https:/***@example.org/x"),
        ("s3://key:secret@bucket/file", "s3://***@bucket/file"),
        ("https://example.org/x?token=abc&n=3", "https://example.org/x?token=***&n=3"),
        (f"the token {TOKEN} is wrong", "the token hf_*** is wrong"),
        ("rows at https://example.org/@me, mail a@b.org", "rows at https://example.org/@me, mail a@b.org"),
        ("module:name?key=value&key=value", "module:name?key=value&key=value"),
        ("recipes/hf_models/sk-learn.jsonl", "recipes/hf_models/sk-learn.jsonl"),
    ],
)
def test_secrets_are_masked_in_texts(text, left):
    assert redact_text(text) == left


def test_a_recipes_secrets_are_in_no_file_of_the_run(project, capsys):
    project.set(inputs={"hub_token": "to push with"})
    project.write("tuned", {"model_name_or_path": "base", "hub_token": "${hub_token}"})
    project.run("--hub_token", "quite-secret", until="tuned")
    project.run("--hub_token", "quite-secret", "--tuned.learning_rate", "0.5", until="tuned")
    assert project.run("--hub_token", "another-one", "--tuned.learning_rate", "0.5", until="tuned") == []
    with pytest.raises(RuntimeError):
        project.run("--hub_token", "quite-secret", "--tuned.fail", f"no access with {TOKEN} to {SECRET_URL}")
    written = [path.read_text() for path in project.run_dir.rglob("*.json") if path.name != "weights.json"]
    printed = "".join([*written, *capsys.readouterr()])
    assert project.record()["stages"]["tuned"]["recipe"]["hub_token"] == MASK
    assert project.record()["inputs"] == {"hub_token": MASK}
    assert not [secret for secret in ("quite-secret", "another-one", TOKEN, "pa55word") if secret in printed]


def test_a_stages_token_is_in_no_file_but_its_checkpoint_has_a_lineage(tmp_path):
    stages = tiny_stages.make(tmp_path / "stages")
    secret = "quite-secret-token"
    tiny_stages.run("sft", stages, tmp_path / "run/sft", hub_token=secret)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 10
    with_it = {path.name for path in files if secret.encode() in path.read_bytes()}
    assert with_it <= {"training_args.bin"}  # transformers' own, in step checkpoints alone
    assert not (tmp_path / "run/sft/checkpoint/training_args.bin").exists()
    assert tiny_stages.record(tmp_path / "run/sft")["recipe"]["hub_token"] == MASK
    lineage = read_lineage(tmp_path / "run/sft/checkpoint")
    base = lineage["parents"]["model_name_or_path"]
    assert base == {"from": str(stages / "base"), "digest": digest_checkpoint(stages / "base")}
    assert list(lineage["data"]) == [str(stages / "sft.jsonl")]


def test_messages_and_logs_are_masked(capsys, monkeypatch):
    from alignment.cli.inspect import info

    def fails(args):
        logging.getLogger("alignment").info("reading %s", SECRET_URL)
        raise UserError(f"cannot read {SECRET_URL}", got=TOKEN)

    handler = logging.StreamHandler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    monkeypatch.setattr(info, "main", fails)
    assert align.main(["info"]) == 2
    printed = "".join(capsys.readouterr())
    assert "reading https://***@example.org" in printed and "cannot read https://***@example.org" in printed
    assert TOKEN not in printed and "pa55word" not in printed


def test_cards_records_and_reports_are_masked(tmp_path):
    numbers = {"seconds": 1.0, "peak_memory_gb": 1.0, "trainable_parameters": 1, "total_parameters": 1, "tokens": 1}
    result = StageResult("sft", "sft", "sft/checkpoint", SECRET_URL, {"model": SECRET_URL}, **numbers, metrics={})
    (tmp_path / "sft/checkpoint").mkdir(parents=True)
    result.write(tmp_path / "sft")
    write_card(tmp_path / "sft/checkpoint", result, SECRET_URL)
    old = {"name": SECRET_URL, "stages": {"sft": {"status": "done", "parents": {"model_name_or_path": SECRET_URL}}}}
    (tmp_path / "pipeline.json").write_text(json.dumps(old))
    write_report(tmp_path)
    pandas = pytest.importorskip("pandas")
    save_run(tmp_path / "run", {"suite": SECRET_URL}, pandas.DataFrame({"score": [0.0]}))
    (tmp_path / "pipeline.json").unlink()
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        assert b"pa55word" not in path.read_bytes(), path


class Dangerous:
    """An object that runs a command when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "adapter_model.bin"])
def test_pickled_weights_are_refused_and_never_opened(tmp_path, name):
    base, folder, marker = tmp_path / "base", tmp_path / "checkpoint", tmp_path / "ran"
    tiny.model().save_pretrained(base)
    if name.startswith("adapter"):
        policy = get_peft_model(tiny.model(), tiny.lora())
        policy.peft_config["default"].base_model_name_or_path = str(base)
        policy.save_pretrained(folder)
    else:
        tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    next(folder.glob("*.safetensors")).unlink()
    (folder / name).write_bytes(pickle.dumps({"weight": torch.zeros(1), "more": Dangerous(marker)}))
    with pytest.raises(UserError) as raised:
        load_causal_lm(folder)
    assert name in str(raised.value) and "save_pretrained" in str(raised.value)
    assert not marker.exists()
    load_tokenizer(folder)  # which has no weights


def test_pickles_next_to_safetensors_are_not_read(tmp_path):
    tiny.model().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    marker = tmp_path / "ran"
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Dangerous(marker)))
    load_causal_lm(tmp_path)
    assert not marker.exists()


def test_the_code_of_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked at the terminal"))
    marker = tmp_path / "ran"
    tiny.model().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "unheard_of",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    for load in (load_config, load_causal_lm):
        with pytest.raises(UserError, match="code of a checkpoint is never run"):
            load(tmp_path)
    assert not marker.exists()


def test_a_self_contained_export_loads_with_the_installed_code(tmp_path):
    from alignment.models.gpt import GPTConfig, GPTForCausalLM

    config = GPTConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    GPTForCausalLM(config).save_pretrained(tmp_path / "ours")
    tiny.tokenizer().save_pretrained(tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", "self-contained", tmp_path / "exported")
    model, _ = load_causal_lm(tmp_path / "exported")
    assert type(model) is GPTForCausalLM


def test_a_recipe_cannot_enable_remote_code(project):
    project.write("tuned", {"model_name_or_path": "base", "trust_remote_code": True})
    with pytest.raises(UserError, match="trust_remote_code would run the code of a checkpoint"):
        project.load()


@pytest.mark.parametrize("place", ["../outside", "/tmp/outside", "inside/../../outside"])
def test_a_recipe_cannot_write_outside(project, place):
    project.write("words", {"output_dir": place})
    with pytest.raises(UserError, match="outside the working directory"):
        load_stage("words", "recipes/words.yaml", package="fake_stages")
    with pytest.raises(UserError, match="sets output_dir"):
        project.load()
    given = load_stage("words", "recipes/words.yaml", package="fake_stages", output_dir="/tmp/asked/words")
    assert given.run_dir == Path("/tmp/asked")  # on the command line any place will do
    Path("runs").symlink_to("/tmp")  # by the user
    project.write("words", {"output_dir": "runs/mine/words"})
    assert load_stage("words", "recipes/words.yaml", package="fake_stages").run_dir == Path("runs/mine")


def test_the_hub_gets_the_checkpoint_and_no_pickled_arguments(tmp_path, monkeypatch):
    uploads = []

    class Api:
        def __init__(self, token):
            self.token = token

        def upload_folder(self, **options):
            uploads.append((self.token, options))

    monkeypatch.setattr(saving, "HfApi", Api)
    arguments = SimpleNamespace(hub_token=TOKEN, hub_revision=None)
    trainer = SimpleNamespace(args=arguments, hub_model_id="me/model", is_world_process_zero=lambda: True)
    saving.push(trainer, tmp_path / "checkpoint")
    expected = {"repo_id": "me/model", "folder_path": tmp_path / "checkpoint", "revision": None}
    assert uploads == [(TOKEN, expected)]

"""Models named by hub id, found offline in the hub's cache as a download would have left them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ppo_tiny as tiny
import pytest
from peft import get_peft_model

from alignment.errors import UserError
from alignment.models.examined.folder_contents import misspelt
from alignment.models.loading import load_config
from alignment.pipeline.parents import check_outside

REVISION = "0" * 40
LOAD = """
import json
from alignment.models.checkpoints import adapter_base, is_adapter
from alignment.models.loading import load_config, load_tokenizer, load_trainable
model = load_trainable("org/adapter", "causal-lm")
weight = next(p for name, p in model.named_parameters() if "lora_B" in name)
print(json.dumps({
    "adapters": [is_adapter(name) for name in ("org/adapter", "org/base", "org/absent")],
    "base": adapter_base("org/adapter"),
    "context": load_config("org/adapter").max_position_embeddings,
    "tokens": len(load_tokenizer("org/adapter")),
    "kind": type(model).__name__,
    "trained": weight.requires_grad,
    "weight": weight.abs().sum().item(),
    "ends": model.generation_config.eos_token_id,
}))
"""


def cache(name: str, hub: Path, without: str) -> Path:
    """The folder in which the hub's cache has the files of one revision, and what it knows not to be among them."""
    repository = hub / f"models--{name.replace('/', '--')}"
    for folder in ("refs", f".no_exist/{REVISION}"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs/main").write_text(REVISION)
    (repository / ".no_exist" / REVISION / without).touch()
    return repository / "snapshots" / REVISION


def test_an_adapter_on_the_hub_is_one(tmp_path):
    base = cache("org/base", tmp_path, without="adapter_config.json")
    tiny.model().save_pretrained(base)
    policy = tiny.active(get_peft_model(tiny.model(), tiny.lora()))
    policy.peft_config["default"].base_model_name_or_path = "org/base"
    adapter = cache("org/adapter", tmp_path, without="config.json")
    policy.save_pretrained(adapter)
    tiny.tokenizer().save_pretrained(adapter)
    policy.generation_config.eos_token_id = [1, 2]
    policy.generation_config.save_pretrained(adapter)
    command = [sys.executable, "-c", LOAD]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    weight = next(p for name, p in policy.named_parameters() if "lora_B" in name)
    assert found == {
        "adapters": [True, False, False],
        "base": "org/base",
        "context": 64,
        "tokens": len(tiny.tokenizer()),
        "kind": "PeftModelForCausalLM",
        "trained": True,
        "weight": pytest.approx(weight.abs().sum().item()),
        "ends": [1, 2],
    }


def test_what_can_be_no_hub_id_is_a_mistake_to_mend():
    with pytest.raises(UserError, match="cannot load no name!"):
        load_config("no name!")


def test_a_misspelt_folder_is_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("my-llama", "runs/tickets/sft/checkpoint", "notes"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("my-llama", "runs/tickets/sft/checkpoint"):
        (tmp_path / folder / "config.json").write_text("{}")
    expected = {
        "runs/ticket/sft/checkpoint": "runs/tickets/sft/checkpoint",
        "./run/tickets/sfft/checkpoint": "runs/tickets/sft/checkpoint",
        str(tmp_path / "runs/tickts/sft"): str(tmp_path / "runs/tickets/sft"),
        "../nowhere/at/all": None,
        "my-lama": "my-llama",
        "note": None,  # no checkpoint: the name may be one on the hub
        "gpt2": None,
    }
    assert {name: misspelt(name) for name in expected} == {
        name: path and f"did you mean {path}?" for name, path in expected.items()
    }
    with pytest.raises(UserError, match="did you mean runs/tickets/sft/checkpoint"):
        load_config("runs/ticket/sft/checkpoint")
    with pytest.raises(UserError, match="did you mean my-llama"):
        load_config("my-lama")
    with pytest.raises(UserError, match="did you mean runs/tickets/sft/checkpoint"):
        check_outside("sft: model_name_or_path", "runs/ticket/sft/checkpoint", "causal-lm", [])

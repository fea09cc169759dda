"""recipes/lora-1gpu on a base model that has no chat template, and files of the kinds that it asks for."""

import json

import base_models
import pytest
from align_cli import align


@pytest.mark.slow
def test_the_recipe_takes_a_base_model_to_an_instruct_one(tmp_path, workplace, monkeypatch):
    monkeypatch.setitem(base_models.SIZES, "max_position_embeddings", 1024)
    base_models.llama(tmp_path / "base")
    files = base_models.write_inputs(tmp_path)
    inputs = ["--model", tmp_path / "base", *[word for name in files for word in (f"--{name}", files[name])]]
    done = align("run", "recipes/lora-1gpu", *inputs, "--quick", "--ppo.eval_share=0.1", cwd=workplace)
    assert done.returncode == 0, done.stderr[-3000:]
    chain = json.loads((workplace / "runs/lora-1gpu/ppo/stage.json").read_text())["adapter_chain"]
    assert [link["stages"] for link in chain["links"]] == [["sft", "ppo"]]
    assert chain["grown_to"]
    done = align("grpo", "recipes/lora-1gpu/grpo.yaml", *inputs[2:4], "--quick", cwd=workplace)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((workplace / "runs/lora-1gpu/grpo/stage.json").read_text())["parent"] == "sft"
    missing = align("run", "recipes/qlora-1gpu", *inputs, "--quick", cwd=workplace)
    assert missing.returncode == 2 and "bitsandbytes" in missing.stderr

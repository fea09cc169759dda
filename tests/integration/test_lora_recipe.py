"""recipes/lora-1gpu on a base model that has no chat template, and files of the kinds that it asks for."""

import json

import base_models
import pytest
from align_cli import align


@pytest.mark.slow
def test_the_recipe_takes_a_base_model_to_an_instruct_one(tmp_path, workplace, monkeypatch):
    monkeypatch.setitem(base_models.SIZES, "max_position_embeddings", 1024)
    base_models.llama(tmp_path / "base")
    sums = [{"question": f"What is {n} and {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"} for n in range(40)]
    tasks = [{"instruction": f"Name a colour, {n}.", "instances": [{"input": "", "output": "red"}]} for n in range(40)]
    said = {"chosen": "Yes", "rejected": "No"}
    pairs = [{side: f"\n\nHuman: {n}?\n\nAssistant: {text}." for side, text in said.items()} for n in range(40)]
    inputs = ["--model", tmp_path / "base"]
    for name, rows in {"math": sums, "instructions": tasks, "preferences": pairs}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        inputs += [f"--{name}", tmp_path / f"{name}.jsonl"]
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

"""The shipped recipes: keys, parents and headers, without a network."""

from pathlib import Path

import pytest

from alignment.pipeline.graph import load_pipeline, load_stage
from alignment.pipeline.recipes.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(path.parent.name for path in (ROOT / "recipes").glob("*/pipeline.yaml"))
PARENTS = {
    "gpt2-124m": {"pretrain": ["tokenizer"], "sft": ["pretrain"], "reward": ["sft"], "dpo": ["sft"]},
    "lora-1gpu": {"sft": [], "reward": ["sft"], "dpo": ["sft"], "ppo": ["sft"]},
    "qlora-1gpu": {"sft": [], "reward": ["sft"], "dpo": ["sft"], "ppo": ["sft"]},
    "tldr-pythia-1b": {"sft": [], "reward": ["sft"], "dpo": ["sft"], "ppo": ["sft", "reward"]},
}
ONE_CARD = ["--model", "m/m", "--math", "d.jsonl", "--instructions", "b.jsonl", "--preferences", "c.jsonl"]
TEXT = ["--text", "a.txt"]
OWN_FILES = [*TEXT, "--instructions", "b.jsonl", "--preferences", "c.jsonl"]
INPUTS = {"local-files": OWN_FILES, "shakespeare-char": TEXT, "lora-1gpu": ONE_CARD, "qlora-1gpu": ONE_CARD}
INPUTS |= {"constitutional": ["--base", "m/m"], "rlaif": ["--tiny", "run"], "rounds": ["--tiny", "run"]}
INPUTS["constitutional-1gpu"] = ["--model", "m/m", "--critic", "c/c", "--helpful", "b.jsonl", "--prompts", "d.jsonl"]


@pytest.fixture
def at_root(monkeypatch, tmp_path):
    """A working directory with the recipes, and the files that some of them need."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    (tmp_path / "c.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    for stage, head in {"pretrain": "CausalLM", "sft": "CausalLM", "reward": "SequenceClassification"}.items():
        (tmp_path / "run" / stage / "checkpoint").mkdir(parents=True)
        config = f'{{"architectures": ["LlamaFor{head}"]}}'
        (tmp_path / "run" / stage / "checkpoint/config.json").write_text(config)
    (tmp_path / "d.jsonl").write_text('{"question": "c", "answer": "d"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_recipe_loads_offline(folder, at_root, tmp_path):
    """Keys and values of every stage are valid and parents exist; hub ids cannot be checked offline."""
    pipeline = load_pipeline(f"recipes/{folder}", INPUTS.get(folder, []))
    assert pipeline.name == folder
    for stage in pipeline.stages:
        assert stage.configs(tmp_path)
        assert sorted(stage.parents.values()) == sorted(PARENTS.get(folder, {}).get(stage.name, stage.parents.values()))


@pytest.mark.parametrize("folder", ["tiny", "lora-1gpu", "qlora-1gpu"])
def test_grpo_recipes_load_too(folder, at_root, tmp_path):
    """They are not stages of the pipelines; their parents are replaced, as these do not exist."""
    recipe = read_recipe(f"recipes/{folder}/grpo.yaml", {"math": "d.jsonl"})
    assert recipe["model_name_or_path"] == "sft" and recipe.get("reward_model_path", "reward") == "reward"
    options = ["--model_name_or_path", "m/m"]
    options += ["--reward_model_path", "m/r"] if folder == "tiny" else ["--math", "d.jsonl"]
    (spec,) = load_stage("grpo", f"recipes/{folder}/grpo.yaml", options).stages
    args = spec.configs(tmp_path)[0]
    assert args.beta > 0 and args.steps_per_rollout == 1


@pytest.mark.parametrize("folder", ["tiny", "lora-1gpu", "qlora-1gpu"])
def test_kto_recipes_load_too(folder, at_root, tmp_path):
    """They are no stages of the pipelines."""
    options = ["--model_name_or_path", "m/m", *([] if folder == "tiny" else ["--replies", "c.jsonl"])]
    (spec,) = load_stage("kto", f"recipes/{folder}/kto.yaml", options).stages
    assert spec.configs(tmp_path)[0].train_sampling_strategy == "sequential"


@pytest.mark.parametrize("folder", ["gpt2-124m", "lora-1gpu", "qlora-1gpu", "tldr-pythia-1b"])
def test_headers_state_needs_and_measurements(folder):
    for path in sorted((ROOT / "recipes" / folder).glob("*.yaml")):
        header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        for word in ("# needs ", "# run ", "# override ", "# measured "):
            assert any(line.startswith(word) for line in header), (path, word)


def test_the_optimizer_batches_are_the_published_ones():
    """SFT, reward model and DPO; PPO's is half, as its header says."""
    for stage, published in {"sft": 128, "reward": 64, "dpo": 64, "ppo": 256}.items():
        recipe = read_recipe(ROOT / f"recipes/tldr-pythia-1b/{stage}.yaml")
        assert recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"] == published
    episodes = recipe["max_steps"] / recipe["num_iterations"] * published
    assert episodes == pytest.approx(1_000_000, rel=1e-3)

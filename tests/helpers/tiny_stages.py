"""Every training stage in a second: parents of a few thousand random weights, and a few rows of each kind."""

import json
from pathlib import Path

import gpt_tiny
import torch
import yaml
from safetensors.torch import load_file

from alignment.models.gpt import GPTConfig, GPTForCausalLM, GPTForSequenceClassification
from alignment.pipeline.graph import load_stage
from alignment.pipeline.runner import run_pipeline
from alignment.pipeline.stopping import stopping
from alignment.tokenization import train_tokenizer

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "old", "bird", "by", "mill", "grey", "dog", "ran", "off"]
ROWS = 24
TRAINED = {
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
    "per_device_train_batch_size": 4,
    "max_steps": 6,
    "logging_steps": 1,
    "learning_rate": 1.0e-3,
    "eval_share": 0,
}
LORA = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0}
# Stage -> (the stage's module, its own keys); LORA variants start from an adapter that the first of them makes.
KEYS = {
    "pretrain": ("pretrain", {"dataset_name": "text.jsonl", "max_length": 32}),
    "sft": ("sft", {"dataset_name": "sft.jsonl", "max_length": 64}),
    "sft-lora": ("sft", {"dataset_name": "sft.jsonl", "max_length": 64, **LORA}),
    "reward": ("reward", {"dataset_name": "pairs.jsonl", "max_length": 64}),
    "dpo": ("dpo", {"dataset_name": "pairs.jsonl", "max_length": 64}),
    "kto": ("kto", {"dataset_name": "pairs.jsonl", "max_length": 64}),
    "ppo": ("ppo", {"dataset_name": "prompts.jsonl"}),
    "ppo-lora": ("ppo", {"dataset_name": "prompts.jsonl", **LORA}),
    "grpo": ("grpo", {"dataset_name": "prompts.jsonl", "max_completion_length": 8, "num_generations": 4, "beta": 0.1}),
}
PPO_KEYS = {"max_completion_length": 8, "steps_per_generation": 2, "num_iterations": 1, "per_device_eval_batch_size": 4}


def words(number: int, count: int) -> str:
    return " ".join(WORDS[(number * 5 + place * (1 + number % 3)) % len(WORDS)] for place in range(count))


def turns(number: int, reply: int) -> list[dict[str, str]]:
    asked = {"role": "user", "content": words(number, 4)}
    return [asked, {"role": "assistant", "content": words(reply, 3 + number % 3)}]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make(folder: Path) -> Path:
    """The parents and the data of all stages, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "text.jsonl", [{"text": words(n, 20 + n % 5)} for n in range(4 * ROWS)])
    write_rows(folder / "sft.jsonl", [{"messages": turns(n, n + 1)} for n in range(ROWS)])
    pairs = [(turns(n, n + 1), turns(n, n + 2)) for n in range(ROWS)]
    write_rows(folder / "pairs.jsonl", [{"chosen": chosen, "rejected": rejected} for chosen, rejected in pairs])
    write_rows(folder / "prompts.jsonl", [{"prompt": turns(n, 0)[:1]} for n in range(ROWS)])

    tokenizer = train_tokenizer([" ".join(WORDS)] * 20, vocab_size=300, model_max_length=128)
    shape = {**gpt_tiny.MODERN, "vocab_size": len(tokenizer), "max_position_embeddings": 128}
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GPTConfig(**{**shape, **special, "bos_token_id": tokenizer.bos_token_id})
    torch.manual_seed(0)
    for name, model in {
        "base": GPTForCausalLM(config),
        "judge": GPTForSequenceClassification(GPTConfig(**{**config.to_dict(), "num_labels": 1})),
    }.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def recipe(name: str, folder: Path) -> Path:
    """The recipe file of a stage; the stage starts from the parents in the folder."""
    stage, own = KEYS[name]
    keys = {**TRAINED, **own, "dataset_name": str(folder / own["dataset_name"])}
    keys["model_name_or_path"] = str(folder / "base")
    if stage == "ppo":
        keys |= PPO_KEYS
    if stage in ("ppo", "grpo"):
        keys["reward_model_path"] = str(folder / "judge")
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return path


def run(name: str, folder: Path, output_dir: Path, max_seconds: float | None = None, **keys) -> dict:
    """Run a stage to its end, with recipe keys over its own, as the command line does; its stage.json."""
    overrides = [f"--{key}={json.dumps(value)}" for key, value in keys.items()]
    pipeline = load_stage(KEYS[name][0], recipe(name, folder), overrides, output_dir)
    with stopping(pipeline.run_dir, max_seconds):
        run_pipeline(pipeline)
    return json.loads((output_dir / "stage.json").read_text(encoding="utf-8"))


def metrics(output_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(output_dir: Path) -> list[float]:
    return [line["loss"] for line in metrics(output_dir) if "loss" in line]


def weights(output_dir: Path) -> dict[str, torch.Tensor]:
    (file,) = (output_dir / "checkpoint").glob("*.safetensors")
    return load_file(file)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def record(output_dir: Path) -> dict:
    return json.loads((output_dir.parent / "pipeline.json").read_text())["stages"][output_dir.name]

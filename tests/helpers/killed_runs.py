"""Small stages of every kind in one run directory, run without interruption and killed, and what must be the same."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from align_cli import REPOSITORY, align

WORLD = "tinyworld:{kind}?documents=300&demonstrations=100&pairs=100&prompts=100&items=20"
BATCHES = ["--per_device_train_batch_size", 4, "--per_device_eval_batch_size", 8, "--logging_steps", 2]
# A checkpoint with every log: what save_minutes does, without a clock.
TRAINED = [*BATCHES, "--save_minutes", 0, "--max_eval_samples", 8, "--warmup_steps", 2]
PAIRS = ["--max_train_samples", 20, "--num_train_epochs", 2]
LORA = ["--use_peft", "true", "--lora_r", 4, "--lora_dropout", 0.1]  # dropout draws random numbers in every step
PPO = ["--steps_per_generation", 2, "--num_iterations", 2, "--max_steps", 10, "--max_completion_length", 8]
PPO += ["--kl_target", 1, "--log_completions", "true", "--max_train_samples", 16, "--eval_strategy", "steps"]
PPO += ["--eval_steps", 4, "--save_strategy", "steps", "--save_steps", 3, "--save_total_limit", 2]
PPO += [*BATCHES, "--save_minutes", "null", "--max_eval_samples", 8]
# Name -> the verb, and what its recipe of recipes/tiny is told.
STAGES = {
    "tokenizer": ["tokenizer", "--vocab_size", 400, "--max_train_samples", 200],
    "pretrain": [
        *["pretrain", *TRAINED, "--max_train_samples", 200, "--model_config.hidden_size", 32],
        *["--model_config.intermediate_size", 64, "--model_config.num_hidden_layers", 2, "--max_steps", 9],
        *["--eval_strategy", "steps", "--eval_steps", 4],
    ],
    "sft": [
        *["sft", *TRAINED, "--max_train_samples", 16, "--replay_dataset_name", WORLD.format(kind="pretrain")],
        *["--num_train_epochs", 2, "--save_strategy", "epoch", "--save_total_limit", 1],
        *["--load_best_model_at_end", "true"],
    ],
    "reward": ["reward", *TRAINED, *PAIRS, "--dataset_card_split", "null"],
    "dpo": ["dpo", *TRAINED, *PAIRS, "--eval_strategy", "epoch"],
    "ppo": ["ppo", *PPO],
}
STAGES["sft-lora"] = [*STAGES["sft"], *LORA]
STAGES["reward-lora"] = [*STAGES["reward"], "--model_name_or_path", "sft-lora"]
STAGES["dpo-lora"] = [*STAGES["dpo"], "--model_name_or_path", "sft-lora"]
STAGES["ppo-lora"] = [*STAGES["ppo"], "--model_name_or_path", "sft-lora", "--reward_model_path", "reward-lora"]
DATA = {"tokenizer": "pretrain", "reward": "preference", "dpo": "preference", "ppo": "prompts"}
PIPELINE = ("tokenizer", "pretrain", "sft", "reward", "dpo", "ppo")
# What passes differently each time, and what transformers says of the time since training went on.
TIMES = re.compile("seconds|runtime|per_second|time|flos")


def pipeline_words() -> list[object]:
    """`align run recipes/tiny` with the same stages, and two evaluations."""
    words = ["run", "recipes/tiny", "--evals.suites", "[tinyworld_gold]", "--evals.stages", "[sft, ppo]"]
    words += ["--evals.limit", 2, "--evals.extra", "[]", "--no-check"]
    for name in PIPELINE:
        options = ["--dataset_name", WORLD.format(kind=DATA.get(name, name)), *STAGES[name][1:]]
        words += [f"--{name}.{one[2:]}" if str(one).startswith("--") else one for one in options]
    return words


@dataclass
class Runs:
    """A run directory, and the stages that were run in it without interruption.

    Args:
        workplace: where the commands run; `recipes` is put beside them.
    """

    workplace: Path
    whole: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self):
        self.folder = self.workplace / "runs"
        (self.workplace / "recipes").symlink_to(REPOSITORY / "recipes")

    def align(self, *arguments: object, kill: tuple[str, int] | None = None) -> tuple[int, str]:
        """Run `align`; its exit code and what it printed."""
        done = align(*arguments, cwd=self.workplace, kill=kill)
        return done.returncode, done.stdout + done.stderr

    def run(self, name: str, place: str, kill: tuple[str, int] | None = None, *more: object) -> tuple[int, str]:
        """Run a stage into the run directory's folder `place`; its exit code and what it printed."""
        verb, *options = STAGES[name]
        data = WORLD.format(kind=DATA.get(verb, verb))
        words = [verb, f"recipes/tiny/{verb}.yaml", "--dataset_name", data, *options, *more]
        return self.align(*words, "--output_dir", self.folder / place, "--no-check", kill=kill)

    def uninterrupted(self, name: str) -> Path:
        """The stage's folder, of a run that nothing stopped; what it starts from is run first."""
        if name not in self.whole:
            verb, *options = STAGES[name]
            named = [one for one in options if one in STAGES]
            usual = {"pretrain": ["tokenizer"], "sft": ["pretrain"], "reward": ["sft"], "dpo": ["sft"]}
            for parent in named or usual.get(verb, ["sft", "reward"] if verb == "ppo" else []):
                self.uninterrupted(parent)
            code, log = self.run(name, name)
            assert code == 0, log
            self.whole[name] = self.folder / name
        return self.whole[name]


def model_files(stage_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (stage_dir / "checkpoint").glob("*.safetensors")}


def logged(stage_dir: Path) -> list[dict]:
    """The lines of metrics.jsonl, without what passes differently each time."""
    lines = [json.loads(line) for line in (stage_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not TIMES.search(key)} for line in lines]


def same_result(whole: Path, again: Path) -> None:
    """The same model to the bit, the same account of it and the same log."""
    assert model_files(whole) and model_files(whole) == model_files(again)
    told = [json.loads((folder / "stage.json").read_text()) for folder in (whole, again)]
    for key in ("tokens", "trainable_parameters", "total_parameters", "parents"):
        assert told[0][key] == told[1][key], key
    completions = [folder / "trainer/completions.jsonl" for folder in (whole, again)]
    assert len({path.read_text() if path.exists() else "" for path in completions}) == 1
    assert flat(told[0]["metrics"]) == pytest.approx(flat(told[1]["metrics"]))
    lines = logged(whole), logged(again)
    assert [line.keys() for line in lines[0]] == [line.keys() for line in lines[1]]
    for one, other in zip(*lines, strict=True):
        assert one == pytest.approx(other), one["step"]


def flat(metrics: dict) -> dict:
    return {key: value for key, value in metrics.items() if not isinstance(value, dict)}

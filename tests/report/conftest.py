"""A run directory as the pipeline leaves it, made of seeded noise, with every file of the real one."""

import functools
import json
import math
from pathlib import Path

import numpy as np
import pandas
import pytest

from eval.comparison.standard_errors import macro_mean, macro_se, mean_se
from eval.harness.store import save_run
from reward_models.card.pairwise import PairScores, pair_card

FAMILIES = ("person_fact", "arithmetic", "translate", "story", "refusal")
ABILITY = {"pretrain": 0.15, "sft": 0.66, "dpo": 0.72, "ppo": 0.74}
PARENTS = {
    "tokenizer": {},
    "pretrain": {"tokenizer": "tokenizer"},
    "sft": {"model_name_or_path": "pretrain"},
    "reward": {"model_name_or_path": "sft"},
    "dpo": {"model_name_or_path": "sft"},
    "ppo": {"model_name_or_path": "sft", "reward_model_path": "reward"},
}
SCRIPT = "<script>alert('x')</script>\nand a second line"


@pytest.fixture(scope="session")
def make_run():
    return write_run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A finished run with few items, to read or to copy."""
    return write_run(tmp_path_factory.mktemp("small") / "tiny", items=6)


def write_run(run_dir: Path, stages=tuple(PARENTS), evaluated=tuple(ABILITY), items: int = 20) -> Path:
    """Write pipeline.json, the stages' files and the evals of `evaluated`."""
    record = {
        "name": "tiny",
        "seed": 0,
        "stages": {name: _entry(name, index) for index, name in enumerate(stages)},
        "evals": {},
        "report": {"headline": {"tinyworld_bpb": "clean"}},
    }
    _write_json(run_dir / "pipeline.json", record)
    for index, name in enumerate(stages):
        _write_json(run_dir / name / "stage.json", _stage(run_dir, name, index))
        (run_dir / name / "checkpoint").mkdir()
        lines = [json.dumps(row) for row in _metrics(name)]
        (run_dir / name / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in evaluated:
        for suite, format in (
            ("tinyworld", "chat"),
            ("tinyworld", "plain"),
            ("tinyworld_gold", "chat"),
            ("tinyworld_bpb", "plain"),
        ):
            _write_eval(run_dir, name, suite, format, items)
    return run_dir


def _entry(name: str, index: int) -> dict:
    return {
        "status": "done",
        "recipe_digest": f"{index}ec1be" * 10,
        "checkpoint_digest": f"{index}beef" * 12,
        "parents": PARENTS[name],
        "seed": 0,
        "versions": {"python": "3.11.9", "torch": "2.8.0", "trl": "1.16.0"},
        "git": {"commit": "0123456789abcdef0123", "dirty": index == 5},
        "hardware": {"cpu": "Example CPU", "cores": 2, "memory_gb": 23.4, "gpus": []},
        "seconds": 12.5 * (index + 1) ** 2,
    }


def _stage(run_dir: Path, name: str, index: int) -> dict:
    parents = {key: str(run_dir / parent / "checkpoint") for key, parent in PARENTS[name].items()}
    return {
        "stage": name,
        "method": {"tokenizer": "byte-level BPE", "pretrain": "next-token prediction"}.get(name, name),
        "checkpoint": str(run_dir / name / "checkpoint"),
        "parent": next(iter(parents.values()), None),
        "parents": parents,
        "seconds": 12.5 * (index + 1) ** 2,
        "peak_memory_gb": 0.4 + 0.3 * index,
        "trainable_parameters": None if name == "tokenizer" else 110_000 if name == "dpo" else 4_812_345,
        "total_parameters": None if name == "tokenizer" else 4_812_345,
        "tokens": 1_000_000 * index,
        "metrics": {"pairwise": reward_card()} if name == "reward" else {"loss": 1.25},
    }


@functools.cache
def reward_card() -> dict:
    """The card of a reward model that is somewhat sure of itself, on 320 pairs."""
    rng, n = np.random.default_rng(2), 320
    gaps = rng.uniform(0, 1.9, n) * rng.choice([-1, 1], n, p=[0.1, 0.9])
    right = rng.random(n) < 0.6 + 0.18 * np.abs(gaps)
    margins = np.where(right, 1, -1) * np.sign(gaps) * rng.gamma(1.5, 1.2, n)
    words = rng.integers(3, 20, (2, n))
    subsets = rng.choice(FAMILIES, n)
    return pair_card(PairScores(margins, np.zeros(n), *words, gaps, subsets), min_gap=0.1)


def _metrics(name: str) -> list[dict]:
    """Logged rows, among them a NaN, a text and more steps than the report keeps."""
    rng, rows = np.random.default_rng(1), []
    for step in range(0 if name == "tokenizer" else 900):
        t = step / 900
        noise = float(rng.normal(0, 0.03))
        loss = {"pretrain": 1.2 + 6.5 * math.exp(-6 * t), "sft": 0.5 + 1.4 * math.exp(-5 * t)}.get(
            name, 0.69 * (1 - 0.5 * t)
        )
        row = {"step": step, "epoch": t, "seconds": step * 0.1, "loss": loss * (1 + noise)}
        if name in ("pretrain", "sft") and step % 100 == 99:
            row["eval_loss"] = loss * 1.03
        if name == "dpo":
            row |= {
                "rewards/margins": 2 * t + noise,
                "rewards/accuracies": 0.5 + 0.4 * t + noise,
                "rewards/chosen": t + noise,
                "rewards/rejected": -t + noise,
            }
        if name == "ppo":
            row |= {
                "reward": 3 * t + 4 * noise,
                "rewards/reward/mean": 3 * t + 4 * noise,
                "rewards/gold_reward/mean": t * (1 - t) + noise,
                "kl/completion": 8 * t + noise,
                "loss/policy": noise,
                "entropy": 1.4 - 0.5 * t + noise,
                "completions/mean_length": 12 + 3 * t + 5 * noise,
                "value/explained_variance": 0.8 - math.exp(-4 * t),
                "clip_ratio/region_mean": 0.08 + noise,
            }
        if step == 450:
            row |= {"loss": float("nan"), "note": "text"}
        rows.append(row)
    return rows


def _write_eval(run_dir: Path, stage: str, suite: str, format: str, items: int) -> None:
    frame = pandas.DataFrame(_items(stage, suite, format, items))
    record = {
        "run_id": f"{stage}-{suite}-{format}",
        "suite": suite,
        "format": format,
        "stage": stage,
        "parent": PARENTS[stage].get("model_name_or_path"),
        "checkpoint": str(run_dir / stage / "checkpoint"),
        "settings": {"num_fewshot": None, "limit": None, "batch_size": 64, "suite_args": {}},
        "seeds": {"fewshot": 0, "sampling": 0},
        "checkpoint_digest": "beef" * 16,
        "tokenizer_digest": "cafe" * 16,
        "template_digest": "abcd" * 16,
        "suite_digest": "f00d" * 16,
        "versions": {"python": "3.11.9"},
        "seconds": 3.2,
        "tasks": _figures(frame, suite),
    }
    save_run(run_dir / "evals" / record["run_id"], record, frame)


def _items(stage: str, suite: str, format: str, items: int) -> list[dict]:
    metric, tasks = {
        "tinyworld": ("exact_match", FAMILIES),
        "tinyworld_gold": ("gold_reward", ("tinyworld_gold",)),
        "tinyworld_bpb": ("bits_per_byte", ("clean", "rude", "unsafe")),
    }[suite]
    rows = []
    for position, task in enumerate(tasks):
        draws = np.random.default_rng(position).random(items)  # the same for every stage: paired items
        noise = np.random.default_rng(len(stage) + ord(stage[0])).normal(0, 0.1, items)
        for index, (draw, own) in enumerate(zip(draws, noise, strict=True)):
            ability = ABILITY[stage] * (1.0 if format == "chat" or stage == "pretrain" else 0.8)
            score = {
                "exact_match": float(draw + own < ability),
                "gold_reward": 2 * ability - 1 + 0.3 * draw + own,
                "bits_per_byte": 1.1 + 0.2 * draw + 0.03 * ability + own / 50,
            }[metric]
            rows.append(
                {
                    "task": task,
                    "metric": metric,
                    "item_id": f"{task}-{index}",
                    "cluster": f"{task}-{index // 2}",
                    "prompt": f"<|user|> What is the answer to {task} {index}?<|end|><|assistant|>",
                    "target": f"answer {index}",
                    "output": "" if metric == "bits_per_byte" else _output(stage, index, score),
                    "score": score,
                    "weight": 1.0,
                    "gen_len": 5,
                    "truncated": False,
                }
            )
    return rows


def _output(stage: str, index: int, score: float) -> str:
    if index == 0:
        return SCRIPT
    return f"answer {index}" if score == 1.0 else f"{stage} says\nsomething else"


def _figures(frame: pandas.DataFrame, suite: str) -> list[dict]:
    rows = []
    for (task, metric), group in frame.groupby(["task", "metric"], sort=False):
        scores, clusters = group["score"].to_numpy(), group["cluster"].to_numpy()
        rows.append(_figure(task, metric, float(scores.mean()), mean_se(scores, clusters=clusters), len(scores)))
    if suite == "tinyworld":
        arrays = [frame[column].to_numpy() for column in ("score", "weight", "task", "cluster")]
        rows.append(
            _figure(
                suite,
                "exact_match",
                macro_mean(*arrays[:3]),
                macro_se(*arrays),
                len(frame),
            )
        )
        rows[-1] |= {"members": list(FAMILIES)}
    return rows


def _figure(task: str, metric: str, value: float, se: float, n: int) -> dict:
    return {
        "task": task,
        "metric": metric,
        "value": value,
        "se": se,
        "n": n,
        "chance": 0.1 if metric == "exact_match" else None,
        "centred": None,
        "higher_is_better": metric != "bits_per_byte",
        "is_mean": True,
        "members": None,
        "pooled": False,
    }


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")

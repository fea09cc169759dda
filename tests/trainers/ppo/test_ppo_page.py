"""docs/ppo.md lists every key with its default, and every metric."""

import re
from pathlib import Path

import ppo_tiny as tiny

from alignment.trainers.ppo.config import PPOConfig
from alignment.yaml_text import parse_yaml

PAGE = (Path(__file__).parents[3] / "docs/ppo.md").read_text(encoding="utf-8")
OF_TRAINER = {"epoch", "step", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}


def tables(head: str) -> list[list[str]]:
    """The rows of all tables with this head of their first column, as lists of cells."""
    found = re.findall(rf"^\| {head} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for table in found for row in table.splitlines()]


def test_the_page_has_every_key_with_its_default():
    listed = {row[0].strip("`"): parse_yaml(row[1], row[0]) for row in tables("key")}
    fields = PPOConfig.__dataclass_fields__
    assert listed == {name: fields[name].default for name in PPOConfig.__annotations__}


def test_the_page_has_every_metric(tmp_path):
    arguments = {"sampler": "continuous_batching", "importance_sampling_clip": 2.0, "ptx_coef": 1.0}
    arguments |= {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 1, "max_completion_length": 24}
    data = {"ptx_dataset": tiny.texts(), "eval_dataset": tiny.prompts(4)}
    run = tiny.trainer(tmp_path, policy=tiny.moe_policy(0.1), arguments=arguments, **data)
    run.train()
    training, evaluation, _ = run.state.log_history
    named = [
        {name.replace("NAME", "length_reward") for row in rows for name in re.findall("`([^`]+)`", row[0])}
        for rows in split_at("kl_coef", tables("metric"))
    ]
    assert training.keys() - OF_TRAINER == named[0] | named[1]
    assert evaluation.keys() - OF_TRAINER == {f"eval_{name}" for name in named[0]}


def split_at(name: str, rows: list[list[str]]) -> tuple[list, list]:
    """Split the metrics into those of rollouts and those of training, which begin with `name`."""
    [index] = [index for index, row in enumerate(rows) if row[0] == f"`{name}`"]
    return rows[:index], rows[index:]

"""A stage that ran out of memory, and went on with half its micro-batch, beside one that did not."""

from pathlib import Path

import tiny_stages
from compared import assert_close
from full_memory import limit_rows

KEYS = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.05, "per_device_eval_batch_size": 4}
OF_PPO = {"value_learning_rate": 0.05, "log_completions": True, "missing_eos_penalty": 0.5, "max_completion_length": 12}


def check_halved(name: str, parents: Path, out: Path, monkeypatch) -> None:
    """Weights after three steps are the same, and so is what was logged of the completions."""
    keys = KEYS | (OF_PPO if name.startswith("ppo") else {})
    tiny_stages.run(name, parents, out / "whole" / name, **keys)
    limit_rows(monkeypatch, 4 if tiny_stages.KEYS[name][0] in ("reward", "dpo") else 2)  # a pair is two rows
    tiny_stages.run(name, parents, out / "halved" / name, **keys)
    record = tiny_stages.record(out / "halved" / name)
    assert record["micro_batch"]["per_device_train_batch_size"] == 2, "nothing was halved"
    wanted, found = (tiny_stages.weights(out / place / name) for place in ("whole", "halved"))
    assert wanted.keys() == found.keys()
    for weight, expected in wanted.items():
        assert_close(found[weight], expected, weight, 1e-5)
    lines = [tiny_stages.metrics(out / place / name) for place in ("whole", "halved")]
    for key in ("loss", "reward", "kl/completion", "entropy", "loss/value"):
        sides = [[line[key] for line in one if key in line] for one in lines]
        assert_close(sides[1], sides[0], key, 1e-4)

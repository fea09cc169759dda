"""Several optimizer steps of PPO, and evaluations, in settings that must not change the results."""

from pathlib import Path

import ppo_tiny
import ragged
from compared import assert_close
from datasets import Dataset
from ppo_cases import Case, Setting, make

TEXTS = Dataset.from_list([{"text": f"{prompt} {reply}"} for prompt, reply, _ in ragged.TALKS] + [{"text": ""}])
PTX = {"ptx_coef": 0.5, "ptx_max_length": 24}

MANY = {"max_steps": 4, "num_iterations": 2, "steps_per_generation": 8, "whiten_rewards": True, "kl_target": 2.0}
MANY |= {"reward_normalization": True, "entropy_coef": 0.01, "cliprange_value": 0.2, "target_kl": 5.0, "optim": "sgd"}
MANY |= {
    "learning_rate": 0.05,
    "value_learning_rate": 0.05,
    "mask_truncated_completions": True,
    "lr_scheduler_type": "constant",
}
UNLIKE = ("time", "runtime", "per_second", "step_time", "grad_norm")


def steps_of(case: Case, micro_batch: int, setting: Setting, folder: Path, monkeypatch, **keys):
    """A run trained on two rollouts of two minibatches of 4 rows."""
    keys = MANY | {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": 4 // micro_batch} | keys
    keys |= {"steps_per_generation": 8 // micro_batch}
    run = make(case, setting, folder, monkeypatch, **keys)
    run.train()
    return run


def check_run(case: Case, micro_batch: int, setting: Setting, folder: Path, monkeypatch, **keys) -> None:
    """Check that weights, beta and logs equal those of whole minibatches and a single evaluation batch."""
    plain = steps_of(case, 4, Setting(), folder, monkeypatch, **keys)
    other = steps_of(case, micro_batch, setting, folder, monkeypatch, **keys)
    for name in ("model", "value_model"):
        wanted, found = (ppo_tiny.weights(getattr(run, name)) for run in (plain, other))
        assert wanted.keys() == found.keys()
        for key, expected in wanted.items():
            assert_close(found[key], expected, f"{name}.{key}", 1e-4)
    assert_close([other.beta, other.baseline or 0.0], [plain.beta, plain.baseline or 0.0], "beta and baseline", 1e-4)
    assert len(plain.state.log_history) == len(other.state.log_history) == 5
    for entry, expected in zip(other.state.log_history[:4], plain.state.log_history[:4], strict=True):
        assert entry.keys() == expected.keys()
        for name in entry:
            if not any(part in name for part in UNLIKE):
                assert_close([entry[name]], [expected[name]], f"{name} of step {entry['step']}", 1e-3)


def evaluated(case: Case, batch_size: int, folder: Path, monkeypatch, order=tuple(range(7))) -> dict[str, float]:
    """The metrics of an evaluation on 7 prompts with scripted completions."""
    run = make(case, Setting(eval_batch=batch_size), folder, monkeypatch)
    rows = Dataset.from_list([{"prompt": ragged.ask(ragged.TALKS[place][0])} for place in order])
    return run.evaluate(rows)


def check_evaluation(case: Case, batch_size: int, folder: Path, monkeypatch, order=tuple(range(7))) -> None:
    """Check that the metrics of an evaluation do not depend on the batches."""
    wanted = evaluated(case, 7, folder, monkeypatch)
    found = evaluated(case, batch_size, folder, monkeypatch, order)
    assert found.keys() == wanted.keys()
    for name in wanted:
        if not any(part in name for part in UNLIKE):
            assert_close([found[name]], [wanted[name]], name, 1e-4)

"""What is printed at the end of a stage and of a run."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from alignment.pipeline.closing import next_command, result_figures, stage_line
from alignment.stages import STAGES


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (
            {"train_loss": 0.7, "eval_loss": 0.6, "eval_rewards/accuracies": 0.8},
            ["eval loss 0.600", "eval accuracy 0.800"],
        ),
        ({"train_loss": 0.04, "reward": 1.867, "kl": 0.01}, ["reward 1.867", "KL 0.010"]),
        ({"train_loss": 0.7, "entropy": 1.0}, ["train loss 0.700"]),
        ({"vocabulary": 512}, []),
    ],
)
def test_the_result_is_that_of_the_closing_evaluation_if_there_is_one(metrics, expected):
    assert result_figures(metrics) == expected


def test_a_stage_closes_with_time_memory_result_and_place():
    line = stage_line("sft", {"peak_memory_gb": 1.46, "metrics": {"train_loss": 0.7}}, 99, Path("runs/tiny/sft"))
    assert line == "sft: done in 1 min 39 s, peak memory 1.5 GB, train loss 0.700, in runs/tiny/sft"
    assert stage_line("words", {}, 3, Path("runs/x/words")) == "words: done in 3.0 s, in runs/x/words"


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (["tokenizer", "pretrain", "sft", "reward"], "align chat 'my runs/sft/checkpoint'"),
        (["reward"], "align reward-card 'my runs/reward/checkpoint' --pairs FILE"),
        (["tokenizer"], None),
    ],
)
def test_the_next_command_uses_the_last_language_model(stages, expected):
    specs = [SimpleNamespace(name=name, facts=STAGES[name]) for name in stages]
    assert next_command(specs, Path("my runs")) == expected

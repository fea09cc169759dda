"""Stages that do not fit the memory: the severity, and the proposed fixes."""

import pytest
from transformers import LlamaConfig

from alignment.check.costs import memory_finding
from alignment.estimate.compute import Device
from alignment.estimate.estimate import Estimate, estimate
from alignment.estimate.summary import describe
from alignment.estimate.workload import TokenStatistics
from alignment.pipeline.recipes.configs import build_configs
from alignment.pipeline.stage_spec import stage_module

MEDIUM = {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16}
ROWS = TokenStatistics(10_000, 400, 1024)


def of(stage: str, gigabytes: float, layers: int = 18, **keys) -> Estimate:
    given = {"output_dir": "nowhere", "dataset_name": "rows", "model_name_or_path": "here", "max_length": 1024}
    if stage == "ppo":
        given |= {"reward_model_path": "there"}
        del given["max_length"]
    configs = build_configs(stage_module(stage, "alignment.stages").CONFIGS, given | {"bf16": False} | keys, "a test")
    config = LlamaConfig(**MEDIUM, num_hidden_layers=layers, max_position_embeddings=4096)
    return estimate(stage, configs, config, ROWS, Device("a machine", round(gigabytes * 1e9)))


def keys_of(fix: str) -> dict:
    """The recipe keys of a fix."""
    pairs = dict(pair.split(": ") for pair in fix.removesuffix(" (tight)").split(", "))
    return {key: int(value) if value.isdigit() else {"true": True}.get(value, value) for key, value in pairs.items()}


@pytest.mark.parametrize(
    ("stage", "gigabytes", "keys"),
    [
        ("sft", 4, {"per_device_train_batch_size": 6}),
        ("sft", 2.9, {"use_peft": True}),
        ("dpo", 8, {"per_device_train_batch_size": 8}),
        ("ppo", 8, {"per_device_train_batch_size": 8, "steps_per_generation": 2}),
    ],
)
def test_a_model_that_cannot_fit_is_an_error_with_fixes_that_fit(stage, gigabytes, keys):
    predicted = of(stage, gigabytes, **keys)
    found = memory_finding(predicted)
    assert found.severity == "error" and "whatever the batch size" in found.what
    smallest = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "activation_checkpointing": True}
    rollout = {"steps_per_generation": 16} if stage == "ppo" else {}
    assert of(stage, gigabytes, **keys | smallest | rollout).verdict == "does not fit"
    assert predicted.fixes and all(fix in found.fix and fix in describe(predicted) for fix in predicted.fixes)
    for fix in predicted.fixes:
        assert of(stage, gigabytes, **keys | keys_of(fix)).verdict == ("tight" if "(tight)" in fix else "fits")


def test_the_largest_predicted_model_fits():
    predicted = of("sft", 4)
    assert "M parameters or fewer" in memory_finding(predicted).fix
    one, two = [of("sft", 4, layers).parameters for layers in (1, 2)]
    layers = 1 + (predicted.largest_model - one) // (two - one)
    fitting = of("sft", 4, layers)
    assert 0.8 * predicted.largest_model < fitting.parameters <= predicted.largest_model
    assert fitting.least <= 4e9 < predicted.least


def test_the_severity_depends_on_the_missing_memory():
    needed = of("sft", 100).total_memory / 1e9
    assert memory_finding(of("sft", needed * 1.01)) is None
    near = memory_finding(of("sft", needed / 1.2, per_device_train_batch_size=8))
    assert near.severity == "warning" and "may not fit" in near.what
    beyond = memory_finding(of("sft", needed / 1.3, per_device_train_batch_size=8))
    assert beyond.severity == "error" and "will not fit" in beyond.what
    parted = memory_finding(of("sft", 1), sharded=True)
    assert parted.severity == "warning"


def test_if_nothing_fits_the_fix_is_a_larger_machine():
    predicted = of("sft", 0.5)
    assert predicted.fixes == [] and predicted.largest_model == 0
    assert "a machine with at least" in memory_finding(predicted).fix and "a machine with at least" in describe(
        predicted
    )

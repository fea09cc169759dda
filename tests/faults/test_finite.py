"""Gradients and weights that are not finite: skipped steps with any optimizer, and weights that are not saved."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import nn
from torch.utils.data import DataLoader, RandomSampler
from transformers import Adafactor

from alignment.callbacks.finite import FiniteGuard, are_finite, require_finite
from alignment.callbacks.metrics_log import count_faults
from alignment.callbacks.spikes import HIGH, LossSpikes, spike_height
from alignment.callbacks.step_rows import rows_of_step
from alignment.errors import Diverged
from alignment.trainers.ppo.rollout import RolloutSampler

ARGS = SimpleNamespace(world_size=1, gradient_accumulation_steps=2)
OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5),
    "sgd with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.5),
    "adafactor": lambda parameters: Adafactor(parameters, weight_decay=0.5),
    "muon": lambda parameters: torch.optim.Muon(parameters, lr=0.1, weight_decay=0.5),
}


def take_step(layer: nn.Linear, optimizer, guard: FiniteGuard, poison: float | None = None) -> None:
    layer(torch.ones(2, 4)).square().sum().backward()
    if poison is not None:
        layer.weight.grad[0, 0] = poison
    guard.on_pre_optimizer_step(ARGS, None, None, optimizer=optimizer)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_skipped_step_changes_nothing_in_weights_and_optimizer(name, poison):
    def train(steps: list[float | None]):
        torch.manual_seed(0)
        layer, guard = nn.Linear(4, 3, bias=False), FiniteGuard(print)
        optimizer = OPTIMIZERS[name](layer.parameters())
        for one in steps:
            take_step(layer, optimizer, guard, one)
        return layer.weight, optimizer.state[layer.weight]

    weight, state = train([None, poison, None])
    expected, expected_state = train([None, None])
    assert torch.equal(weight, expected)
    assert state.keys() == expected_state.keys()
    assert all(torch.equal(torch.as_tensor(state[key]), torch.as_tensor(expected_state[key])) for key in state)


@pytest.mark.parametrize(("scale", "skips"), [(1024.0, False), (0.5, True)])
def test_an_overflow_that_a_smaller_scale_of_fp16_fixes_is_no_fault(scale, skips):
    layer, guard = nn.Linear(4, 3), FiniteGuard(print)
    optimizer = torch.optim.AdamW(layer.parameters())
    optimizer.scaler = SimpleNamespace(get_scale=lambda: scale)
    take_step(layer, optimizer, guard, float("inf"))
    assert guard.skipping is skips


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_numbers_are_finite_and_a_single_infinity_is_found(dtype):
    large = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    assert are_finite([large, torch.empty(0), torch.ones(3)])
    for bad in (float("nan"), float("inf"), -float("inf")):
        broken = torch.ones(1000, dtype=dtype)
        broken[7] = bad
        assert not are_finite([large, broken])


def test_a_model_with_a_weight_that_is_not_finite_is_named_and_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    require_finite(model, "the checkpoint")
    with torch.no_grad():
        model[1].bias[0] = float("inf")
    with pytest.raises(Diverged, match=r"the checkpoint is not saved.*\n.*1\.bias"):
        require_finite(model, "the checkpoint")


def test_rows_of_a_step_are_those_that_the_loader_yields():
    rows = list(range(10, 33))
    for sampler in (
        SeedableRandomSampler(rows, data_seed=3),
        torch.utils.data.SequentialSampler(rows),
        RolloutSampler(len(rows), 4, 2, seed=1),
    ):
        loader = DataLoader(rows, batch_size=4, sampler=sampler, collate_fn=list)
        for epoch in range(2):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
            batches = list(loader)  # the loader may have fetched them before the step is looked up
            steps = -(-len(batches) // 2)
            for step in range(steps):
                given = dict.fromkeys(row for batch in batches[2 * step : 2 * step + 2] for row in batch)
                found = rows_of_step(loader, epoch * steps + step, ARGS)
                assert [rows[row] for row in found] == list(given)


def test_rows_are_unknown_if_the_sampler_cannot_repeat_its_order():
    assert rows_of_step(DataLoader([1, 2, 3], sampler=RandomSampler([1, 2, 3])), 0, ARGS) is None


def test_a_loss_stands_out_by_spreads_above_the_median():
    falling = [3 - 0.05 * step for step in range(30)]
    assert spike_height(falling, 1.45) < 0
    assert spike_height(falling, 2.5) < HIGH < spike_height(falling, 6.0)
    assert spike_height([*falling, 50.0, 60.0], 6.0) > HIGH  # earlier spikes do not hide it
    assert spike_height([1.0] * 30, 1.05) < HIGH < spike_height([1.0] * 30, 1.2)  # a plateau has next to no spread
    assert spike_height(falling[:5], 1e6) == 0  # too few to judge


def test_spikes_are_recorded_at_their_steps(tmp_path):
    written, state = [], SimpleNamespace(log_history=[], global_step=0)
    spikes = LossSpikes(lambda state, values: written.append((state.global_step, values["loss_spike"] > HIGH)))
    for step in range(1, 40):
        loss = 9.0 if step in (25, 26) else 2.0 + 0.01 * (step % 5)
        state.global_step = step
        for logs in ({"loss": loss}, {"eval_loss": 100.0}):
            state.log_history.append(logs | {"step": step})
            spikes.on_log(None, state, None, logs=logs)
    assert written == [(25, True), (26, True)]
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "skipped_step": 1}\n{"step": 20, "loss_spike": 50.1}\n')
    assert count_faults(tmp_path / "metrics.jsonl") == {"skipped_steps": 1, "loss_spikes": 1}

"""The parts of a step, by a fake clock that the parts advance; model FLOPs and peak FLOP/s."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer, TrainingArguments

import align
from alignment.callbacks.step_timer import StepTimer
from alignment.errors import UserError
from alignment.estimate.peak_flops import BF16_TFLOPS, palm_flops, peak_flops
from alignment.estimate.shape import shape_of
from alignment.estimate.throughput import bare_overrides, bench_preset, describe
from alignment.models.gpt import GPTConfig

LOADED, FORWARD, BACKWARD, OPTIMIZER = 3.0, 5.0, 7.0, 11.0
TINY = ["--max_length", "32", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]


class Clock:
    now = 0.0

    def wait(self, seconds: float) -> None:
        self.now += seconds


class Rows(torch.utils.data.Dataset):
    def __init__(self, clock: Clock):
        self.clock = clock

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.clock.wait(LOADED)
        return {"x": torch.ones(1)}


class Model(torch.nn.Module):
    def __init__(self, clock: Clock):
        super().__init__()
        self.clock, self.weight, self.config = clock, torch.nn.Parameter(torch.ones(1)), SimpleNamespace()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.clock.wait(FORWARD)
        loss = (self.weight * x).sum()
        loss.register_hook(lambda _: self.clock.wait(BACKWARD))
        return {"loss": loss}


class SGD(torch.optim.SGD):
    def step(self, closure=None) -> None:
        self.clock.wait(OPTIMIZER)


def timed(tmp_path, timer: StepTimer, **arguments) -> StepTimer:
    clock = Clock()
    timer._now = lambda: clock.now
    model = Model(clock)
    optimizer = SGD(model.parameters(), lr=0.1)
    optimizer.clock = clock
    common = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "report_to": "none"}
    common |= {"save_strategy": "no", "use_cpu": True, "dataloader_pin_memory": False, "max_steps": timer.max_steps}
    args = TrainingArguments(str(tmp_path), **common, **arguments)
    Trainer(model, args, train_dataset=Rows(clock), optimizers=(optimizer, None), callbacks=[timer]).train()
    return timer


def test_each_part_of_a_step_is_timed_separately(tmp_path):
    timer = timed(tmp_path, StepTimer(steps=3, warmup=1))
    micro = {"data": LOADED, "forward": FORWARD, "backward": BACKWARD}
    expected = {part: 2 * took for part, took in micro.items()} | {"optimizer": OPTIMIZER, "other": 0.0}
    assert timer.split == pytest.approx(expected, abs=LOADED)  # Trainer loads a batch ahead, at the end of an epoch
    assert list(timer.split) == list(expected)
    assert timer.step_seconds == pytest.approx(sum(expected.values()), abs=LOADED)


def test_the_passes_of_a_compiled_model_are_reported_together(tmp_path):
    compiled = {"torch_compile": True, "torch_compile_backend": "eager"}
    timer = timed(tmp_path, StepTimer(steps=2, warmup=1), **compiled)
    assert timer.split["forward and backward"] == pytest.approx(2 * (FORWARD + BACKWARD))
    assert timer.split.keys() == {"data", "optimizer", "other", "forward and backward"}


def test_a_preset_is_measured(tmp_path):
    found = bench_preset("modern-tiny", TINY, StepTimer(1, 1, tmp_path / "trace"))
    assert (found.tokens_per_step, found.parameters) == (128, 1_311_872)
    assert found.model_flops == palm_flops(shape_of(GPTConfig.from_preset("modern-tiny")), 32)
    assert found.utilisation == pytest.approx(128 / found.step_seconds * found.model_flops / found.peak_flops)
    assert list(found.split) == ["data", "forward", "backward", "optimizer", "other"]
    assert 0 < found.utilisation < 1 and found.peak_memory_gb > 0.1
    events = json.loads((tmp_path / "trace/trace.json").read_text())["traceEvents"]
    assert sum(event["name"].startswith("Optimizer.step") for event in events) == 3
    assert "model FLOP utilisation" in describe(found)


def test_a_presets_keys_are_those_of_a_pretrain_recipe():
    with pytest.raises(UserError, match="learning_rat"):
        bench_preset("modern-tiny", ["--learning_rat", "1"], StepTimer(1, 1))


@pytest.mark.parametrize(
    ("what", "named"),
    [("gpt9", "did you mean"), ("recipes/tiny/sfd.yaml", "no recipe file"), ("recipes/tiny", "no recipe file")],
)
def test_bench_refuses_unknown_presets_and_missing_recipes(what, named, capsys):
    assert align.main(["bench", what]) == 2
    assert named in capsys.readouterr().err


def test_flops_are_those_of_palm():
    """Appendix B of the paper: 6N + 12LHQT."""
    shape = shape_of(GPTConfig.from_preset("gpt2"))
    assert palm_flops(shape, 1024) == 6 * 124_439_808 + 12 * 12 * 12 * 64 * 1024
    assert palm_flops(shape, 1024, frozen=True) == palm_flops(shape, 1024) * 2 / 3


def test_the_longest_matching_card_name_gives_the_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe")
    assert peak_flops(torch.device("cuda"), torch.bfloat16) == (756e12, "data sheet")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert peak_flops(torch.device("cuda"), torch.bfloat16) == (BF16_TFLOPS["H100"] * 1e12, "data sheet")


def test_keys_given_by_the_user_are_kept():
    flags = bare_overrides(["--max_steps", "7", "--logging_strategy", "steps"], StepTimer(2, 1), rows=50)
    assert flags[:4] == ["--max_steps", "7", "--logging_strategy", "steps"]
    assert flags.count("--logging_strategy") == 1 and flags[-6:][:2] == ["--max_steps", "5"]

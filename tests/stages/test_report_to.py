"""`report_to`: what reaches TensorBoard, wandb and trackio from a stage, by transformers' callbacks."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import tiny_stages

from alignment.callbacks.trackers import name_run, wandb_run_ended

SECRET = "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ012345"
KEYS = {"max_steps": 2, "eval_share": 0.25, "save_strategy": "no"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_stages.make(tmp_path_factory.mktemp("stages"))


class Run(SimpleNamespace):
    """A run of a tracker."""

    def __init__(self, tracker, **options):
        super().__init__(options=options, config={}, logged=[], summary={}, ended=None, tracker=tracker)

    def _label(self, **_):
        pass

    def finish(self, exit_code=0):
        self.ended, self.tracker.run = exit_code, None


def fake(name: str, monkeypatch) -> ModuleType:
    """A tracker in memory, with the functions that transformers calls; `runs` are those it was asked for."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.runs, module.run, module.__version__ = [], None, "1.0"

    def init(**options):
        module.run = Run(module, **options)
        module.config = Config(module.run.config)
        module.runs.append(module.run)

    module.init, module.log = init, lambda values: module.run.logged.append(values)
    module.finish = lambda: module.run.finish()
    module.termwarn = lambda *_, **__: None
    module.context_vars = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))
    monkeypatch.setitem(sys.modules, name, module)
    return module


class Config(dict):
    """A run's config, which trackers fill by `update`."""

    def __init__(self, kept):
        self.kept = kept

    def update(self, values, allow_val_change=False):
        self.kept.update(values)

    def __setitem__(self, key, value):
        self.kept[key] = value


@pytest.fixture
def wandb(monkeypatch):
    module = fake("wandb", monkeypatch)
    errors = ModuleType("wandb.sdk.lib.config_util")
    errors.ConfigError = RuntimeError
    for name in ("wandb.sdk", "wandb.sdk.lib"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, errors.__name__, errors)
    monkeypatch.setenv("WANDB_PROJECT", "my-project")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    return module


@pytest.fixture
def trackio(monkeypatch):
    return fake("trackio", monkeypatch)


def logged(runs):
    return set().union(*(values for run in runs for values in run.logged))


def test_wandb_gets_a_run_per_stage(wandb, folder, tmp_path, capsys):
    for name in ("sft", "sft-again"):
        tiny_stages.run("sft", folder, tmp_path / "mine" / name, report_to="wandb", **KEYS)
    assert [run.options for run in wandb.runs] == [
        {"project": "my-project", "name": "mine-sft"},
        {"project": "my-project", "name": "mine-sft-again"},
    ]
    assert [run.ended for run in wandb.runs] == [0, 0]
    for run in wandb.runs:
        assert {"train/loss", "train/global_step", "eval/loss"} <= logged([run])
        assert run.config["learning_rate"] == 1e-3 and run.config["model/num_parameters"] > 0
    assert SECRET not in repr(wandb.runs) + "".join(capsys.readouterr())


def test_a_run_of_the_caller_stays_open(wandb):
    wandb.init(project="caller's")
    with wandb_run_ended():
        pass
    assert [run.ended for run in wandb.runs] == [None]


def test_a_failed_stage_fails_its_run(wandb):
    with pytest.raises(ValueError, match="out of luck"), wandb_run_ended():
        wandb.init()
        raise ValueError("out of luck")
    assert [run.ended for run in wandb.runs] == [1]


def test_trackio_gets_a_stage_and_its_closing_evaluation_under_one_name(trackio, folder, tmp_path, capsys):
    keys = {"report_to": "trackio", "project": "my-project", "hub_token": SECRET}
    tiny_stages.run("sft", folder, tmp_path / "mine" / "sft", **KEYS, **keys)
    assert {(run.options["project"], run.options["name"], run.options["resume"]) for run in trackio.runs} == {
        ("my-project", "mine-sft", "allow")
    }
    assert {"train/loss", "train/global_step", "eval/loss"} <= logged(trackio.runs)
    assert SECRET not in repr(trackio.runs) + "".join(capsys.readouterr())


def test_a_recipe_names_its_run(tmp_path):
    args = SimpleNamespace(run_name="third try")
    name_run(args, tmp_path / "mine/sft")
    assert args.run_name == "third try"


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="tensorboard is not installed: it is an extra")
def test_tensorboard_gets_the_metrics(folder, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tiny_stages.run("sft", folder, tmp_path / "sft", report_to="tensorboard", **KEYS)
    (place,) = (tmp_path / "sft/trainer/runs").iterdir()
    events = EventAccumulator(str(place))
    events.Reload()
    assert {"train/loss", "train/num_tokens", "eval/loss"} <= set(events.Tags()["scalars"])
    written = [event.value for event in events.Scalars("train/loss")]
    assert written == pytest.approx(tiny_stages.losses(tmp_path / "sft"))

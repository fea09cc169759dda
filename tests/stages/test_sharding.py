"""Stages under FSDP and DeepSpeed: the same checkpoint as one process writes, and honest refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gpt_tiny
import pytest
import sharded_stages
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType
from compared import assert_close
from gpt_tiny import CLASSIC, EXPERTS, MODERN, build
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerFast

from alignment.callbacks.processes import require_one_world
from alignment.errors import UserError
from alignment.models.gpt import GPTForSequenceClassification
from alignment.stages.shared.saving import gathered_weights, require_supported_sharding, save_checkpoint
from alignment.trainers.ppo.checks import check_whole_models
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.pretrain.trainer import PretrainConfig, PretrainTrainer
from alignment.trainers.sharding import sharding

HELPERS, ROOT = Path(sharded_stages.__file__).parent, Path(__file__).parents[2]
KINDS = {
    "tied": (CLASSIC, {}),
    "untied": (MODERN, {}),
    "tied-experts": ({**EXPERTS, "tie_word_embeddings": True}, {}),
    "windows": (gpt_tiny.FAMILIES["sinks"], {}),
    "reward": (MODERN, {"cls": GPTForSequenceClassification, "num_labels": 1}),
}


@pytest.fixture(scope="module")
def world():
    """A world of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def trainer_of(model, kind, **state) -> SimpleNamespace:
    """What the checks and the gathering look at of a trainer."""
    accelerator = SimpleNamespace(
        distributed_type=kind, is_fsdp2=kind == DistributedType.FSDP, unwrap_model=lambda one: one
    )
    plugins = {"fsdp_plugin": None, "deepspeed_plugin": None, **state}
    accelerator.state = SimpleNamespace(**plugins)
    accelerator.get_state_dict = lambda one: Accelerator.get_state_dict(accelerator, one)
    args = SimpleNamespace(load_best_model_at_end=False, fsdp=None, deepspeed=None, world_size=1)
    return SimpleNamespace(accelerator=accelerator, model=model, model_wrapped=model, args=args)


def words() -> PreTrainedTokenizerFast:
    tokenizer = gpt_tiny.Tokenizer(gpt_tiny.models.WordLevel({"a": 0}, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_model_is_saved_as_the_whole_one(kind, world, tmp_path):
    shape, options = KINDS[kind]
    whole, sharded = build(shape, **options), build(shape, **options)
    for layer in sharded.model.layers:
        fully_shard(layer, mesh=world)
    fully_shard(sharded, mesh=world)
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    weights = gathered_weights(trainer_of(sharded, DistributedType.FSDP))
    for name, model, given in (("whole", whole, None), ("sharded", sharded, weights)):
        save_checkpoint(model, words(), tmp_path / name, weights=given)
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "sharded"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    loaded = type(whole).from_pretrained(tmp_path / "sharded")
    ids = gpt_tiny.token_ids(1, 7)
    torch.testing.assert_close(loaded(ids).logits, whole(ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU])
def test_whole_models_are_not_gathered(kind):
    assert gathered_weights(trainer_of(build(MODERN), kind)) is None


ASKED = [
    ({"fsdp": "full_shard"}, {}, None, "FSDP, by the recipe"),
    ({"deepspeed": "zero.json"}, {}, None, "DeepSpeed, by the recipe"),
    ({}, {"ACCELERATE_USE_FSDP": "true"}, None, "FSDP, by the launcher"),
    ({}, {"ACCELERATE_USE_FSDP": "1"}, None, "FSDP, by the launcher"),
    ({}, {"ACCELERATE_USE_DEEPSPEED": "true"}, None, "DeepSpeed, by the launcher"),
    ({}, {}, DistributedType.FSDP, "FSDP, by accelerate"),
    ({}, {}, DistributedType.DEEPSPEED, "DeepSpeed, by accelerate"),
    ({}, {}, DistributedType.MEGATRON_LM, "Megatron, by accelerate"),
    ({}, {"ACCELERATE_USE_FSDP": "false"}, DistributedType.MULTI_CPU, None),
    ({}, {}, DistributedType.MULTI_GPU, None),
    ({}, {}, DistributedType.NO, None),
    ({}, {}, None, None),
]


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("arguments", "environment", "kind", "expected"), ASKED)
def test_sharding_is_found_wherever_it_is_asked_for(arguments, environment, kind, expected, monkeypatch):
    args = SimpleNamespace(**{"fsdp": None, "deepspeed": None} | arguments)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    accelerator = None if kind is None else SimpleNamespace(distributed_type=kind)
    found = sharding(args, accelerator)
    assert found is None if expected is None else found.startswith(expected)
    if expected is None:
        check_whole_models(args, accelerator)
    else:
        with pytest.raises(UserError, match="PPO needs one device per process, with whole models") as raised:
            check_whole_models(args, accelerator)
        assert expected in raised.value.got


CPU = {"use_cpu": True, "bf16": False, "report_to": "none"}


def test_muon_is_refused_where_the_launcher_shards(tmp_path, monkeypatch):
    args = PretrainConfig(str(tmp_path), muon=True, **CPU)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="Muon needs whole matrices") as raised:
        PretrainConfig(str(tmp_path), muon=True, **CPU)
    assert "FSDP, by the launcher" in raised.value.got
    with pytest.raises(UserError, match="Muon needs whole matrices"):  # the arguments were made before
        PretrainTrainer(build(MODERN), args)
    PretrainConfig(str(tmp_path), muon=False, **CPU)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    PretrainTrainer(build(MODERN), args)


def test_ppo_is_refused_where_the_launcher_shards(tmp_path, monkeypatch):
    from datasets import Dataset

    from alignment.trainers.ppo.trainer import PPOTrainer

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    args = PPOConfig(str(tmp_path), **CPU)
    with pytest.raises(UserError, match="whole models") as raised:
        PPOTrainer(build(MODERN), [], args, train_dataset=Dataset.from_list([{"prompt": "a"}]))
    assert "ACCELERATE_USE_FSDP" in raised.value.got


def test_processes_that_train_alone_beside_each_other_are_refused(monkeypatch):
    for launched, world_size, refused in ((2, 1, True), (2, 2, False), (1, 1, False), (3, 1, True)):
        monkeypatch.setenv("WORLD_SIZE", str(launched))
        args = SimpleNamespace(world_size=world_size)
        if refused:
            with pytest.raises(UserError, match="do not know of each other"):
                require_one_world(args)
        else:
            require_one_world(args)


def plugin(kind: str) -> SimpleNamespace:
    return SimpleNamespace(state_dict_type=f"StateDictType.{kind}")


@pytest.mark.parametrize(
    ("best", "kind", "refused"),
    [
        (True, "SHARDED_STATE_DICT", True),
        (False, "SHARDED_STATE_DICT", False),
        (True, "FULL_STATE_DICT", False),
    ],
)
def test_the_best_checkpoint_of_shards_is_refused(best, kind, refused):
    trainer = trainer_of(build(MODERN), DistributedType.FSDP, fsdp_plugin=plugin(kind))
    trainer.args.load_best_model_at_end = best
    if refused:
        with pytest.raises(UserError, match="best step checkpoint cannot be loaded"):
            require_supported_sharding(trainer)
    else:
        require_supported_sharding(trainer)


@pytest.mark.parametrize("tokens", [None, [3, 4]])
@pytest.mark.parametrize("sharded", [True, False])
def test_rows_of_embeddings_that_an_adapter_trains_are_refused_under_fsdp(tokens, sharded):
    model = get_peft_model(build(CLASSIC), LoraConfig(target_modules="all-linear", r=2, trainable_token_indices=tokens))
    trainer = trainer_of(model, DistributedType.FSDP, fsdp_plugin=plugin("FULL_STATE_DICT") if sharded else None)
    if sharded and tokens:
        with pytest.raises(UserError, match="FSDP cannot shard embeddings"):
            require_supported_sharding(trainer)
    else:
        require_supported_sharding(trainer)


@pytest.mark.parametrize(("stage", "gathers", "refused"), [(3, False, True), (3, True, False), (2, False, False)])
def test_zero_three_that_would_not_gather_is_refused(stage, gathers, refused):
    config = {"zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": gathers}}
    deepspeed = SimpleNamespace(zero_stage=stage, deepspeed_config=config)
    trainer = trainer_of(build(MODERN), DistributedType.DEEPSPEED, deepspeed_plugin=deepspeed)
    if refused:
        with pytest.raises(UserError, match="would not gather the weights"):
            require_supported_sharding(trainer)
    else:
        require_supported_sharding(trainer)


def launched(bases: Path, out: Path, processes: int) -> Path:
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    paths = {"PYTHONPATH": f"{HELPERS}:{ROOT}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment = os.environ | paths | {"ACCELERATE_USE_CPU": "true"}
    program = [str(HELPERS / "sharded_stages.py"), str(bases), str(out)]
    ran = subprocess.run([*command, *program], capture_output=True, text=True, timeout=900, env=environment)
    assert ran.returncode == 0, ran.stderr[-6000:]
    return out


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sharded")
    return [launched(folder, folder / str(processes), processes) for processes in (1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize("stage", sharded_stages.STAGES)
def test_two_processes_under_fsdp_write_the_checkpoint_of_one(stage, outcomes):
    one, two = outcomes
    assert json.loads((one / f"{stage}.json").read_text())[0] == 0
    sharded, parameters = json.loads((two / f"{stage}.json").read_text())
    assert sharded == parameters > 0
    folders = [folder / stage / "checkpoint" for folder in outcomes]
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    weights = "adapter_model.safetensors" if stage.endswith("lora") else "model.safetensors"
    expected, found = (load_file(folder / weights) for folder in folders)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_close(found[name], tensor, name)
    records = [json.loads((folder / stage / "stage.json").read_text()) for folder in outcomes]
    assert records[0]["trainable_parameters"] == records[1]["trainable_parameters"]
    assert records[1]["probe"] is None

"""Two processes train like a single process on the same completions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HELPERS = Path(__file__).parents[2] / "helpers"
# Every process takes the likeliest token, since random draws differ between processes.
PROGRAM = """
import json, sys
from accelerate import PartialState
import ppo_tiny as tiny
from alignment.trainers.ppo.models import inner
from safetensors.torch import save_file

mode, rows, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
policy = tiny.sft_adapter() if mode == "lora" else tiny.model()
arguments = {"per_device_train_batch_size": rows, "critic_mode": mode, "max_steps": 3,
             "kl_target": 0.1, "reward_normalization": True, "whiten_rewards": True, "log_completions": True,
             "max_completion_length": 8}

def reward(completion_ids, **kwargs):
    return [float(sum(ids) % 7) for ids in completion_ids]

run = tiny.trainer(out, policy=policy, reward_funcs=reward, dataset=tiny.prompts(8), arguments=arguments)
policy = inner(run.model)
generate = policy.generate
policy.generate = lambda *args, **kwargs: generate(*args, do_sample=False, **kwargs)
run.train()
if PartialState().is_main_process:
    save_file({name: p.detach().clone() for name, p in run.model.named_parameters()}, out + "/policy.safetensors")
    save_file({name: p.detach().clone() for name, p in run.critic.trained().items()}, out + "/critic.safetensors")
    with open(out + "/log.json", "w") as file:
        json.dump([run.state.log_history, run.beta, run.baseline], file)
PartialState().wait_for_everyone()
PartialState().destroy_process_group()
"""


def trained(folder: Path, mode: str, processes: int) -> Path:
    """Train on rollouts of 4 prompts, in one process or in two with 2 prompts each."""
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*launcher, str(folder / "program.py"), mode, str(4 // processes), str(folder)]
    root = str(Path(__file__).parents[3])
    environment = os.environ | {"PYTHONPATH": f"{HELPERS}:{root}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return folder


@pytest.mark.slow  # the fast test of the same kind: tests/invariance/test_processes.py, in one launch for all stages
@pytest.mark.parametrize("mode", ["separate", "shared_head", "lora"])
def test_two_processes_train_like_a_single_process(tmp_path, mode):
    one, two = (trained(tmp_path / str(count), mode, count) for count in (1, 2))
    for name in ("policy.safetensors", "critic.safetensors"):
        expected, found = load_file(one / name), load_file(two / name)
        assert expected.keys() == found.keys()
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], atol=1e-5, rtol=1e-3)
    (log, *state), (other_log, *other_state) = (json.loads((folder / "log.json").read_text()) for folder in (one, two))
    assert other_state == pytest.approx(state, rel=1e-4)
    for line, other in zip(log[:3], other_log[:3], strict=True):
        for key in line.keys() - {"grad_norm"}:
            if "time" not in key:
                assert other[key] == pytest.approx(line[key], rel=2e-3, abs=1e-5), key
    lines = [(folder / "completions.jsonl").read_text().splitlines() for folder in (one, two)]
    assert len(lines[0]) == 12 and sorted(lines[0]) == sorted(lines[1])

"""Two processes of one training handle a fault or a signal in either of them at the same step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"
PROGRAM = """
import json, os, signal, sys
import gpt_tiny, torch
from pathlib import Path
from transformers import Trainer, TrainerCallback, TrainingArguments
from alignment.errors import Interrupted
from alignment.models.gpt import GPTConfig, GPTForCausalLM
from alignment.callbacks.finite import FiniteGuard, Guarded
from alignment.callbacks.stop_on_signal import StopOnSignal
from dataclasses import dataclass

folder, fault, rank = Path(sys.argv[1]), sys.argv[2], int(os.environ["RANK"])
requests, skipped = [], []

@dataclass
class Arguments(Guarded, TrainingArguments):
    pass

class Saver(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = bool(requests)

class Faulty(Trainer):
    def training_step(self, model, *args, **kwargs):
        loss = super().training_step(model, *args, **kwargs)
        if self.state.global_step == 2 and rank == 1:
            if fault == "signal":
                signal.raise_signal(signal.SIGTERM)
            else:  # after the gradients were averaged
                next(p for p in self.model.parameters() if p.grad is not None).grad.view(-1)[0] = float("nan")
        return loss

args = Arguments(str(folder / "trainer"), use_cpu=True, max_steps=6, per_device_train_batch_size=2, save_strategy="no",
                 report_to="none", disable_tqdm=True)
rows = [{"input_ids": torch.arange(n, n + 8) % 90 + 4, "labels": torch.arange(n, n + 8) % 90 + 4} for n in range(32)]
stop = StopOnSignal(lambda: requests.append(1))
guard = FiniteGuard(lambda state, values: skipped.append(state.global_step))
torch.manual_seed(0)
model = GPTForCausalLM(GPTConfig(**gpt_tiny.MODERN))
trainer = Faulty(model, args, train_dataset=rows, callbacks=[stop, Saver(), guard])
try:
    with stop.listening():
        trainer.train()
    ended = "done"
except Interrupted as error:
    ended = error.message
weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
(folder / f"{rank}.json").write_text(json.dumps([ended, skipped, weights.double().sum().item()]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "expected"),
    [("nan", ["done", [3]]), ("signal", ["asked to end (SIGTERM): saved at step 3 of 6", []])],
)
def test_both_processes_handle_a_fault_of_one(fault, expected, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": f"{HELPERS}:{root}", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*command, str(tmp_path / "program.py"), str(tmp_path), fault],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == two and one[:2] == expected

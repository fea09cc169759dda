"""How many threads, and how long should they spin while they wait for each other, on a quiet machine and a busy one?

A worker process per setting holds the model of recipes/tiny's pretraining, with random tokens, and trains for
`--seconds` when it is told to; meanwhile the other workers sleep. Each round measures every setting beside each number
of busy processes, which are Python loops that this benchmark starts. Figures are medians over the rounds.

- tokens/s, beside N busy processes.
- "of endless": the speed as a share of that of torch's own setting, whose threads spin for milliseconds.
- "excess": the slowdown beside N busy processes, over the slowdown that the setting's share of the processor explains.
  A scheduler that treats all threads alike gives T threads beside N busy processes C * T / (T + N) of C cores, where
  they have T when the machine is quiet. At 1 the setting keeps its share; above 1 its threads lose time in waiting.

Without busy processes of this benchmark a machine counts as quiet here: whatever else it does is measured too, and
`load` in the JSON (the machine's load average before the first round) tells.

    python benchmarks/threads.py [--busy 0 1 2] [--rounds 5] [--seconds 2] [--quick]

Seed 0, two cores of an Intel Xeon (Sapphire Rapids), torch 2.13, 2026-11-30, while others used both cores: "0
busy" in rounds of 0.5 s at real-time priority (SCHED_FIFO), the others in rounds of 0.6 s with an autogroup priority of
-20, which leaves some 5% to other work; one to seven rounds, MKL_DYNAMIC unset. A later run of three rounds on a quiet
machine had 0.78 of endless spinning for 1000 rounds, and excesses of 1.11 and 1.06 (docs/measurements.md).

                        0 busy  of endless    1 busy    2 busy
    as torch starts     10,576        1.00     2,746     2,387
    one thread           7,354                 6,948     4,652
    100 rounds           8,518        0.83     4,818     3,741
    1000 rounds          9,529        0.94     5,418     4,045
    3000 rounds                                4,273     3,937
    10000 rounds        10,249        0.97
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import TrainerCallback, default_data_collator, set_seed

from alignment.estimate.throughput import BARE, random_rows
from alignment.models.gpt import GPTConfig, GPTForCausalLM
from alignment.pipeline.recipes.recipe import read_recipe
from alignment.pipeline.records.environment import hardware
from alignment.stages.pretrain import PretrainRecipe
from alignment.threads import COUNT, COUNTS, DYNAMIC, ROUNDS, SPIN_ROUNDS, WAITING, usable_cores
from alignment.trainers.pretrain.trainer import PretrainTrainer

RECIPE = Path(__file__).resolve().parents[1] / "recipes/tiny/pretrain.yaml"
LEAST_QUIET, MOST_EXCESS = 0.9, 1.3
VARIABLES = (*COUNTS, *WAITING, DYNAMIC)
OURS = {DYNAMIC: "FALSE"}  # as `align` sets it
SETTINGS: dict[str, dict[str, str]] = {
    "as torch starts": {},
    "one thread": OURS | {COUNT: "1"},
    "never spinning": OURS | {"OMP_WAIT_POLICY": "passive"},
    **{f"{count} rounds": OURS | {SPIN_ROUNDS: str(count)} for count in (100, ROUNDS, 10000)},
}
ENDLESS, CHOSEN = "as torch starts", f"{ROUNDS} rounds"


class Turns(TrainerCallback):
    """Trains for some seconds, at least one step, for each line of standard input; ends with the input."""

    def __init__(self, seconds: float, tokens: int):
        self.seconds, self.tokens, self.answers = seconds, tokens, sys.stdout

    def answer(self, **found: float) -> None:
        print(json.dumps(found), file=self.answers, flush=True)

    def wait(self, control) -> None:
        control.should_training_stop = not sys.stdin.readline()
        self.begun, self.steps = time.perf_counter(), 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun, self.steps = time.perf_counter(), 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1
        took = time.perf_counter() - self.begun
        if state.global_step == 1 or took >= self.seconds:  # the first step chooses kernels, and says that all is ready
            self.answer(rate=self.steps * self.tokens / took)
            self.wait(control)


def work(seconds: float) -> None:
    """Train the recipe's model on one batch of random tokens, whenever the parent process says so."""
    recipe, tokenizer = read_recipe(RECIPE), read_recipe(RECIPE.with_name("tokenizer.yaml"))
    names = {one.name for one in fields(PretrainRecipe)}
    keys = {key: value for key, value in recipe.items() if key in names} | BARE
    sizes = {"vocab_size": tokenizer["vocab_size"], "max_position_embeddings": tokenizer["model_max_length"]}
    with TemporaryDirectory() as folder:
        args = PretrainRecipe(**keys | {"output_dir": folder, "max_steps": 10**6, "seed": 0})
        set_seed(args.seed)
        config = GPTConfig(**sizes | recipe["model_config"])
        rows = random_rows(config, args)
        turns = Turns(seconds, sum(len(row["input_ids"]) for row in rows))
        with redirect_stdout(sys.stderr):  # Trainer prints
            PretrainTrainer(
                model=GPTForCausalLM(config),
                args=args,
                train_dataset=rows,
                data_collator=default_data_collator,
                callbacks=[turns],
            ).train()


@contextmanager
def worker(setting: dict[str, str], seconds: float) -> Iterator[subprocess.Popen]:
    """Start a worker, whose first answer says that it has made its first step."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | setting
    command = [sys.executable, __file__, "--work", "--seconds", str(seconds)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        yield process
        process.stdin.close()


def answer(process: subprocess.Popen) -> float:
    """Return the rate that a worker prints, in tokens per second."""
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker ended without an answer: {' '.join(process.args)}")
    return json.loads(line)["rate"]


def rate(process: subprocess.Popen) -> float:
    """Let a worker train for its seconds, and return its rate."""
    process.stdin.write("\n")
    process.stdin.flush()
    return answer(process)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run so many processes that compute without a pause."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.3 if loops else 0)  # until they compute
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(args: argparse.Namespace) -> dict[str, dict[int, list[float]]]:
    """Return the rates of each setting beside each number of busy processes, one per round."""
    rates: dict[str, dict[int, list[float]]] = {name: {count: [] for count in args.busy} for name in args.settings}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(worker(SETTINGS[name], args.seconds)) for name in args.settings}
        for process in workers.values():
            answer(process)
        for _ in range(args.rounds):
            for count in args.busy:
                with busy(count):
                    for name, process in workers.items():
                        rates[name][count].append(rate(process))
    return rates


def share(threads: int, count: int, cores: int) -> float:
    """The speed that `threads` threads keep beside `count` busy processes, as a share of their speed alone."""
    return min(1.0, cores / (threads + count))


def summary(rates: dict[str, dict[int, list[float]]], cores: int) -> dict[str, Any]:
    """Medians over the rounds; ratios are taken within a round, so that a slow spell of the machine cancels."""
    figures: dict[str, Any] = {}
    for name, by_count in rates.items():
        threads = int(SETTINGS[name].get(COUNT, cores))
        figures[name] = {}
        for count, found in by_count.items():
            cell = figures[name][str(count)] = {"tokens_per_second": statistics.median(found)}
            if ENDLESS in rates:
                pairs = zip(found, rates[ENDLESS][count], strict=True)
                cell["of_endless"] = statistics.median(one / other for one, other in pairs)
            if count and 0 in by_count:
                pairs = zip(by_count[0], found, strict=True)
                slower = statistics.median(quiet / beside for quiet, beside in pairs)
                cell["excess"] = slower * share(threads, count, cores)
    return figures


def show(figures: dict[str, Any]) -> None:
    """Print a table with a row per setting, and per number of busy processes three columns."""
    counts = next(iter(figures.values()))
    print(" " * 18 + "".join(f"{'beside ' + count + ' busy':>30}" for count in counts))
    print(f"{'':18}" + "".join(f"{'tokens/s':>10}{'of endless':>12}{'excess':>8}" for _ in counts))
    for name, row in figures.items():
        cells = [
            f"{cell['tokens_per_second']:10,.0f}{number(cell, 'of_endless'):>12}{number(cell, 'excess'):>8}"
            for cell in row.values()
        ]
        print(f"{name:18}" + "".join(cells))


def number(cell: dict[str, float], key: str) -> str:
    return f"{cell[key]:.2f}" if key in cell else ""


def targets_met(figures: dict[str, Any]) -> dict[str, bool]:
    """Whether the chosen setting reaches the targets that were measured."""
    row = figures.get(CHOSEN, {})
    found = {
        f"excess beside {count} busy": cell["excess"] <= MOST_EXCESS for count, cell in row.items() if count != "0"
    }
    if "of_endless" in row.get("0", {}):
        found["quiet"] = row["0"]["of_endless"] >= LEAST_QUIET
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="numbers of busy processes beside")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of training per round, setting and number")
    parser.add_argument("--quick", action="store_true", help="a smoke run: the figures mean nothing")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.seconds)
        return
    if args.quick:
        args.busy, args.settings, args.rounds, args.seconds = [0, 1], [ENDLESS, CHOSEN], 1, 0.1
    load, cores = os.getloadavg()[0], usable_cores()
    figures = summary(measure(args), cores)
    show(figures)
    met = targets_met(figures)
    targets = {
        "quiet": f"at least {LEAST_QUIET:.0%} of the speed of threads that spin for milliseconds",
        "excess": f"at most {MOST_EXCESS} beside busy processes",
    }
    done = {"figures": figures, "targets": targets, "met_each": met, "met": all(met.values()), "load": load}
    print(json.dumps(done | {"machine": hardware()}))


if __name__ == "__main__":
    main()

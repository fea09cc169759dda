"""How soon does pretraining reach a loss: characters of a text file, our recipes against a plain loop.

The reference is what nanoGPT's README trains on a CPU (4 layers of 128, context 64, batches of 12, 2,000 iterations, no
dropout; AdamW 1e-3 to 1e-4 by cosine after 100 of warm-up, beta2 0.99, decay 0.1, clipped at 1), as a bare loop around
transformers' GPT2LMHeadModel in fp32. Ours are the recipes of recipes/shakespeare-char, run by the pretrain stage:

    pretrain.yaml   loss 1.88, at which nanoGPT's README arrives, in an eighth of the reference's time
    long.yaml       loss 1.52 in the reference's time
    longest.yaml    loss 1.4697, nanoGPT's on a GPU, in five times the reference's time

The first 90% of the characters are trained on; losses are of all the rest, in windows of each model's own context that
do not overlap, and again in windows of 64. T is what the reference's 2,000 iterations take, evaluation left out. Our
time is all that the stage takes after imports: reading, tokenizing, start-up, training, saving. "start-up", which is in
it, is what a run of one step takes. With --choose the last tenth of the training part stands in for the rest:
hyperparameters were chosen by that, and the last 10% read for the reported runs only.

Runs are interleaved, each in a fresh process. Seconds are by the wall clock, or of the processor where the machine has
other work (--clock processor, best with --threads 1).

    python benchmarks/time_to_loss.py --text FILE [--seeds 0 1 2] [--clock processor --threads 1] [--quick]

tinyshakespeare, one thread of a shared AMD EPYC with AVX-512 BF16 and no AMX, processor time, torch 2.13. There was no
time for whole runs of this script: pretrain.yaml is of 2026-11-26, its seeds 1 and 2 without references of their own;
long.yaml of 2026-11-27, beside its own reference (T = 151.0 s); longest.yaml of the same day, without one.

    seed               seconds    of Tstart-up     loss    at 64
       0 reference       149.8   1.000       -   1.8914   1.8914
       0 pretrain         16.0   0.107     0.7   1.8399   1.8399
       1 pretrain         15.9   0.106     0.7   1.8470   1.8470
       2 pretrain         15.5   0.104     0.7   1.8388   1.8388
       0 reference       151.0   1.000       -   1.8914   1.8914
       0 long            169.1   1.120     0.7   1.5314   1.5549
       0 longest         699.4   4.632       1.3   1.4621   1.5058
    reference, seed 0: loss 1.88 not reached

So 1.88 is reached in an eighth of T, with 0.03 to spare, and on seed 0 1.4697 in 4.63 T. 1.52 at T is missed: 1.531 at
1.12 T, where four layers without weight decay had 1.558 at 1.08 T the day before. (The validation split is 0.04 harder
than the last tenth of the training part.)
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from alignment.pipeline.recipes.configs import build_configs
from alignment.pipeline.recipes.overrides import apply_overrides
from alignment.pipeline.recipes.recipe import read_recipe
from alignment.pipeline.records.environment import hardware

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes/shakespeare-char"
# recipe -> the loss it is to reach, and the share of the reference's time it may take
TARGETS = {"pretrain": (1.88, 1 / 8), "long": (1.52, 1.0), "longest": (1.4697, 5.0)}
SHARE, BLOCK = 0.9, 64
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
QUICK = ["--max_steps", "2", "--per_device_train_batch_size", "2"]


def parts(text: str, choose: bool) -> tuple[str, str]:
    """What is trained on, and what losses are told of."""
    train, rest = text[: int(len(text) * SHARE)], text[int(len(text) * SHARE) :]
    return (train[: int(len(train) * SHARE)], train[int(len(train) * SHARE) :]) if choose else (train, rest)


def loss_of(model: torch.nn.Module, ids: torch.Tensor, context: int) -> float:
    """Mean loss over windows of `context` that do not overlap, all of a text but what is left at its end."""
    windows = (len(ids) - 1) // context
    inputs, targets = (ids[start : start + windows * context].view(windows, context) for start in (0, 1))
    model.eval()
    total = 0.0
    with torch.no_grad():
        for batch, wanted in zip(inputs.split(64), targets.split(64), strict=True):
            logits = model(batch, use_cache=False).logits.float()
            total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum").item()
    model.train()
    return total / targets.numel()


# ---- The reference ----


def reference(text: str, args: argparse.Namespace) -> dict[str, Any]:
    """nanoGPT's CPU run: T, and the losses on the way there."""
    from transformers import GPT2Config, GPT2LMHeadModel

    train, rest = parts(text, args.choose)
    numbers = {character: index for index, character in enumerate(sorted(set(text)))}
    train_ids, rest_ids = (torch.tensor([numbers[character] for character in part]) for part in (train, rest))
    torch.manual_seed(args.seeds[0])
    sizes = {"n_positions": BLOCK, "n_embd": 128, "n_layer": 4, "n_head": 4, "vocab_size": len(numbers)}
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = GPT2LMHeadModel(GPT2Config(**sizes, **dropouts, bos_token_id=None, eos_token_id=None))
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    clock, seconds, curve = CLOCKS[args.clock], 0.0, []
    for step in range(args.iterations):
        started = clock()
        for group in optimizer.param_groups:
            group["lr"] = reference_rate(step, args.iterations)
        starts = torch.randint(len(train_ids) - BLOCK, (12, 1))
        batch = train_ids[starts + torch.arange(BLOCK + 1)]
        logits = model(batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds += clock() - started
        if (step + 1) % max(args.iterations // 8, 1) == 0:
            curve.append({"seconds": seconds, "loss": loss_of(model, rest_ids, BLOCK)})
    reached = next((point["seconds"] for point in curve if point["loss"] <= TARGETS["pretrain"][0]), None)
    return {"seconds": seconds, "loss": curve[-1]["loss"], "reached": reached, "curve": curve}


def reference_rate(step: int, steps: int) -> float:
    if step < 100:
        return 1e-3 * (step + 1) / 101
    share = (step - 100) / max(steps - 100, 1)
    return 1e-4 + (1e-3 - 1e-4) * 0.5 * (1 + math.cos(math.pi * share))


# ---- Ours ----


def ours(text: str, args: argparse.Namespace) -> dict[str, Any]:
    """One of our recipes, through the stages: seconds, of which start-up, and the losses."""
    from alignment.models.loading import load_causal_lm

    train, rest = parts(text, args.choose)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # Text files are cut into documents; one row of JSONL is one document, as nanoGPT has it.
        document = folder / "train.jsonl"
        document.write_text(json.dumps({"text": train}) + "\n", encoding="utf-8")
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        make("tokenizer", "tokenizer", document, folder, [])
        startup = make("pretrain", args.recipe, document, folder, ["--max_steps", "1"], args)
        shutil.rmtree(folder / "cache")  # so that the text is read and tokenized again
        seconds = make("pretrain", args.recipe, document, folder, args.overrides, args)
        model, tokenizer = load_causal_lm(folder / "pretrain/checkpoint")
        made = json.loads((folder / "pretrain/stage.json").read_text(encoding="utf-8"))
    ids = torch.tensor(tokenizer(rest, add_special_tokens=False, verbose=False)["input_ids"])
    context = read_recipe(RECIPES / f"{args.recipe}.yaml")["max_length"]
    losses = {"loss": loss_of(model, ids, context), "loss_at_64": loss_of(model, ids, BLOCK), "context": context}
    return {"seconds": seconds, "startup": startup, "parameters": made["trainable_parameters"], **losses}


def make(
    stage: str, recipe: str, document: Path, folder: Path, overrides: list[str], args: argparse.Namespace | None = None
) -> float:
    """Run a stage in a folder; its seconds."""
    import importlib

    module = importlib.import_module(f"alignment.stages.{stage}")
    keys = read_recipe(RECIPES / f"{recipe}.yaml", {"text": str(document)})
    keys |= {"output_dir": str(folder / stage)}
    if args is not None:
        keys |= {"tokenizer_name_or_path": str(folder / "tokenizer/checkpoint"), "seed": args.seeds[0]}
        keys |= {"report_to": "none", "disable_tqdm": True, "use_cpu": True}
    clock = CLOCKS["wall" if args is None else args.clock]
    started = clock()
    with contextlib.redirect_stdout(sys.stderr):
        module.run(*build_configs(module.CONFIGS, apply_overrides(keys, overrides), recipe))
    return clock() - started


def work(which: str, text: Path, args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(args.threads)
    args.recipe = which
    return (reference if which == "reference" else ours)(text.read_text(encoding="utf-8"), args)


# ---- The table ----


def run_worker(which: str, seed: int, text: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The reference or a recipe, in a process of its own; in this one where the figures mean nothing."""
    if args.quick:
        return work(which, text, argparse.Namespace(**{**vars(args), "seeds": [seed]}))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--text", text, "--worker", which, "--seeds", seed, "--clock", args.clock]
    command += ["--threads", args.threads, "--iterations", args.iterations]
    command += ["--choose"] if args.choose else []
    command += ["--overrides", *args.overrides] if args.overrides else []
    ran = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{which} failed:\n{ran.stderr[-3000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def print_runs(seed: int, runs: dict[str, dict[str, Any]]) -> None:
    whole = runs["reference"]["seconds"]
    for name, run in runs.items():
        startup = f"{run['startup']:8.1f}" if "startup" in run else f"{'-':>8}"
        at_64 = run.get("loss_at_64", run["loss"])
        share = run["seconds"] / whole
        print(f"{seed:4} {name:12}{run['seconds']:9.1f}{share:8.3f}{startup}{run['loss']:9.4f}{at_64:9.4f}", flush=True)


def verdict(runs: dict[int, dict[str, dict[str, Any]]], recipes: list[str]) -> tuple[dict[str, str], dict[str, bool]]:
    """What each recipe is to reach, and whether it does so on every seed."""
    targets, met = {}, {}
    for recipe in recipes:
        loss, share = TARGETS[recipe]
        targets[recipe] = f"loss {loss} in {share:g} of the reference's time"
        met[recipe] = all(
            of_seed[recipe]["loss"] <= loss and of_seed[recipe]["seconds"] <= share * of_seed["reference"]["seconds"]
            for of_seed in runs.values()
        )
    return targets, met


def measure(args: argparse.Namespace, text: Path) -> None:
    print(f"seed {'':12}{'seconds':>9}{'of T':>8}{'start-up':>8}{'loss':>9}{'at 64':>9}")
    runs = {}
    for seed in args.seeds:
        runs[seed] = {which: run_worker(which, seed, text, args) for which in ("reference", *args.recipes)}
        print_runs(seed, runs[seed])
    for seed, of_seed in runs.items():
        reached = of_seed["reference"]["reached"]
        told = f"at {reached:.1f} s" if reached else "not reached"
        print(f"reference, seed {seed}: loss {TARGETS['pretrain'][0]} {told}")
    whole = statistics.median(of_seed["reference"]["seconds"] for of_seed in runs.values())
    targets, met = verdict(runs, args.recipes)
    figures = {"T": whole, "runs": runs, "clock": args.clock, "threads": args.threads}
    done = {"figures": figures, "targets": targets, "met_each": met, "met": all(met.values())}
    print(json.dumps(done | {"machine": hardware()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="a text file, such as tinyshakespeare's input.txt")
    parser.add_argument("--recipes", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=2000, help="of the reference")
    parser.add_argument("--choose", action="store_true", help="losses on the last tenth of the training part")
    parser.add_argument("--quick", action="store_true", help="a smoke run: the figures mean nothing")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # the reference or a recipe, in a process of its own
    parser.add_argument("--overrides", nargs=argparse.REMAINDER, default=[], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args.worker, args.text, args)))
        return
    if not args.quick and args.text is None:
        parser.error("--text FILE is needed")
    with tempfile.TemporaryDirectory() as folder:
        if args.quick:
            args.text = Path(folder) / "text.txt"
            args.text.write_text("To be, or not to be: that is the question.\n" * 100, encoding="utf-8")
            args.seeds, args.iterations, args.recipes, args.overrides = [0], 4, ["pretrain"], QUICK
        measure(args, args.text)


if __name__ == "__main__":
    main()

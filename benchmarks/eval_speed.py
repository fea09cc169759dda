"""How long does an evaluation take: `align eval`, and lm-eval on the same model, tasks and batch?

The same 2,000 items in lm-eval YAML for both, greedy, fp32, batches of 16, one thread. "small": 1,600 multiple-choice
items of 4 choices after 10 to 40 words of context, and 400 replies of up to 16 words, on a random Llama (2 layers x
64, vocabulary 1,000). "large vocabulary": 2,000 items of 2 choices after 8 to 16 words, on the same with 151,936 words.
Accuracies and exact matches must be equal.

"process" is the whole command: `align eval` against `lm_eval`, which reads all its task files first. "after loading"
has the model loaded: here what `eval.evaluate` does, with the suite read, digests taken and files written; there
`simple_evaluate` with its `HFLM` and task manager made before, and no bootstrap. Repetitions are interleaved, each in a
fresh process. Seconds are processor time, so that what else the machine does counts little.

    python benchmarks/eval_speed.py [--quick]

Seed 0, two cores of an Intel Xeon that others used too, one thread, lm-eval 0.4.13, 2026-11-22, medians of 3,
of commit ab48100, and not again since:

    seconds                            align   lm-eval   ratio
    process                             13.7      30.8    2.24
    after loading, small                 7.1       9.4    1.33
    after loading, large vocabulary     21.6      66.8    3.10
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BATCH = 16
SPECIAL = ["<pad>", "<eos>", "<unk>"]
SIZES = {
    "small": {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "large vocabulary": {"vocab_size": 151_936, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
}
TARGETS = {"process": 1.5, "after loading, small": 1.0, "after loading, large vocabulary": 1.5}
CHOICES = """task: choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
REPLIES = """task: replies
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{context}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [" w5 "], do_sample: false, max_gen_toks: 16}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


# ---- What both read ----


def save_model(folder: Path, sizes: dict[str, int], seed: int) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, TokenizersBackend

    words = [*SPECIAL, *(f"w{number}" for number in range(sizes["vocab_size"] - len(SPECIAL)))]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    tokenizer = TokenizersBackend(tokenizer_object=backend, model_max_length=256, **names)
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    config = LlamaConfig(**sizes, **tokens, intermediate_size=256, max_position_embeddings=256, initializer_range=0.1)
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_tasks(folder: Path, kind: str, items: int, seed: int) -> None:
    draw = random.Random(seed)

    def words(low: int, high: int) -> str:
        return " ".join(f"w{draw.randrange(900)}" for _ in range(draw.randint(low, high)))

    replies = items // 5 if kind == "small" else 0
    context, choices = ((10, 40), 4) if kind == "small" else ((8, 16), 2)
    folder.mkdir()
    tasks = {"choices": (CHOICES, items - replies), "replies": (REPLIES, replies)}
    for name, (yaml, count) in tasks.items():
        if not count:
            continue
        rows = []
        for _ in range(count):
            row: dict[str, Any] = {"context": words(*context)}
            if name == "choices":
                row |= {"choices": [words(1, 3) for _ in range(choices)], "answer": draw.randrange(choices)}
            else:
                row |= {"answer": words(1, 1)}
            rows.append(row)
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.yaml").write_text(yaml.format(rows=file))


# ---- The contenders, each in a process of its own ----


def ours_after_loading(folder: Path) -> tuple[float, dict[str, float]]:
    import eval.harness.lm  # noqa: F401  (what lm-eval's contender has imported too)
    from eval.harness.run_suite import evaluate, load_checkpoint

    loaded = load_checkpoint(folder / "model")
    started = time.process_time()
    record = evaluate(folder / "model", str(folder / "tasks"), "plain", folder / "run", batch_size=BATCH, loaded=loaded)
    return time.process_time() - started, {row["task"]: row["value"] for row in record["tasks"]}


def lm_eval_after_loading(folder: Path) -> tuple[float, dict[str, float]]:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=str(folder / "model"), dtype="float32", device="cpu", batch_size=BATCH)
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    started = time.process_time()
    results = lm_eval.simple_evaluate(model, tasks=manager.all_subtasks, task_manager=manager, bootstrap_iters=0)
    return time.process_time() - started, scores(results["results"])


def scores(results: dict[str, dict]) -> dict[str, float]:
    return {task: row.get("acc,none", row.get("exact_match,none")) for task, row in results.items()}


AFTER_LOADING = {"align": ours_after_loading, "lm-eval": lm_eval_after_loading}


def commands(folder: Path, tasks: str) -> dict[str, list[str]]:
    ours = ["align.py", "eval", "model", "--suite", "tasks", "--format", "plain", "--output_dir", "runs"]
    theirs = ["-m", "lm_eval", "--model", "hf", "--model_args", "pretrained=model,dtype=float32", "--tasks", tasks]
    ours[0] = str(ROOT / ours[0])
    return {
        "align": [sys.executable, *ours, "--batch_size", str(BATCH)],
        "lm-eval": [
            *(sys.executable, *theirs, "--include_path", "tasks", "--device", "cpu"),
            *("--batch_size", str(BATCH), "--output_path", "theirs", "--log_samples"),
        ],
    }


def environment() -> dict[str, str]:
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | quiet | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def run(command: list[str], folder: Path) -> tuple[float, str]:
    """Processor seconds of a command, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def whole_process(name: str, folder: Path) -> tuple[float, dict[str, float]]:
    tasks = ",".join(sorted(file.stem for file in (folder / "tasks").glob("*.yaml")))
    seconds, _ = run(commands(folder, tasks)[name], folder)
    if name == "align":
        record = json.loads(next((folder / "runs").glob("*/run.json")).read_text())
        return seconds, {row["task"]: row["value"] for row in record["tasks"]}
    newest = max((folder / "theirs").rglob("results_*.json"), key=lambda file: file.stat().st_mtime)
    return seconds, scores(json.loads(newest.read_text())["results"])


def after_loading(name: str, folder: Path) -> tuple[float, dict[str, float]]:
    command = [sys.executable, str(Path(__file__).resolve()), "--contender", name, "--folder", str(folder)]
    _, printed = run(command, folder)
    return tuple(json.loads(printed.splitlines()[-1]))


# ---- The comparison ----


def measure(way: str, kind: str, folder: Path, repetitions: int) -> dict[str, list[float]]:
    """Seconds of both contenders, interleaved; raises where their scores differ."""
    call = whole_process if way == "process" else after_loading
    seconds: dict[str, list[float]] = {"align": [], "lm-eval": []}
    for _ in range(repetitions):
        found = {}
        for name in seconds:
            taken, found[name] = call(name, folder)
            seconds[name].append(taken)
        if found["align"] != found["lm-eval"]:
            raise RuntimeError(f"{way}, {kind}: the scores differ: {found}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="60 items, one repetition")
    parser.add_argument("--contender", choices=AFTER_LOADING)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.contender:
        print(json.dumps(AFTER_LOADING[args.contender](args.folder)))
        return
    items, repetitions = (60, 1) if args.quick else (2000, 3)
    sizes = SIZES | ({"large vocabulary": SIZES["small"]} if args.quick else {})
    figures: dict[str, dict[str, Any]] = {}
    print(f"{'seconds':32}{'align':>8}{'lm-eval':>10}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as place:
        for kind, size in sizes.items():
            folder = Path(place) / kind.replace(" ", "_")
            save_model(folder / "model", size, seed=0)
            save_tasks(folder / "tasks", kind, items, seed=0)
            for way in ("process", "after loading") if kind == "small" else ("after loading",):
                seconds = measure(way, kind, folder, repetitions)
                medians = {name: statistics.median(times) for name, times in seconds.items()}
                row = way if way == "process" else f"{way}, {kind}"
                ratio = medians["lm-eval"] / medians["align"]
                figures[row] = {"ratio": round(ratio, 3), "seconds": seconds}
                print(f"{row:32}{medians['align']:8.1f}{medians['lm-eval']:10.1f}{ratio:8.2f}", flush=True)
    met = all(figures[row]["ratio"] >= target for row, target in TARGETS.items())
    from alignment.pipeline.records.environment import hardware

    print(json.dumps({"figures": figures, "targets": TARGETS, "met": met, "machine": hardware()}))


if __name__ == "__main__":
    main()

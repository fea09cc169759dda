"""Every figure of a recipe's report over several training seeds: mean, standard deviation and interval.

    python benchmarks/seeds.py [--recipe recipes/tiny] [--seeds 0 1 2 | --count 5] [--output seeds.md] [--quick]
        [--until STAGE] [--STAGE.key value ...]

Each seed is a run directory OUTPUT_DIR/seed-N of `align run --seed N`, which skips finished stages and resumes an
interrupted one: repeat the command to resume, or with more seeds to add to them. Arguments that are not the benchmark's
own go to `align run`, with `{seed}` replaced by the seed.

Varied: initial weights, dropout, order and drawing of training rows, rollouts. Held fixed: the data (tinyworld's own
seed is in its dataset name) and what the evaluations draw, as few-shot examples. To vary these too, put `{seed}` in
their keys: `--evals.seed {seed}`, `--sft.dataset_name 'tinyworld:sft?seed={seed}'`.

An interval is Student's t over seeds (n - 1 degrees of freedom). It is conditional on the recipe, its data and the
evaluated items, and on this machine's arithmetic; it covers what another training seed would change. The intervals in a
run's report are the other half: over items, given that run's checkpoints. Differences are paired by seed.

Targets: the gold reward in chat of DPO and of PPO is above SFT's, by the lower end of the interval over seeds.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from alignment.pipeline.recipes.pipeline_file import read_settings
from alignment.pipeline.records.environment import hardware
from alignment.report.labels import metric_of, number, stage_name, variant_texts
from alignment.report.tables import order, row_name

ROOT = Path(__file__).resolve().parents[1]
# The smoke run, of a base model alone and few documents.
QUICK = ["--quick", "--until", "pretrain", "--evals.suites=[tinyworld_bpb]", "--evals.stages=[pretrain]"]
QUICK += ["--evals.extra=[]", "--no-check"]
QUICK += [f"--{stage}.dataset_name=tinyworld:pretrain?documents=300" for stage in ("tokenizer", "pretrain")]
README = {("tinyworld", "chat"), ("tinyworld", "plain"), ("tinyworld_gold", "chat"), ("tinyworld_bpb", "plain")}
SELECTIONS: dict[str, Callable[[dict], bool]] = {
    "readme": lambda row: bool(row["headline"]) and (row["suite"], row["format"]) in README,
    "headline": lambda row: bool(row["headline"]),  # of each suite the aggregate, or its only task
    "all": lambda row: True,  # the tasks as well
}
KEY = ("suite", "task", "format", "metric")
TARGETS = [("sft", "dpo"), ("sft", "ppo")]


def over_seeds(values: Sequence[float], level: float = 0.95) -> dict[str, float | None]:
    """Mean, standard deviation (n - 1) and Student's t interval of one figure per seed; None below two seeds."""
    from scipy.stats import t

    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None}
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    reach = float(t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "low": mean - reach, "high": mean + reach}


def gathered(reports: Sequence[dict], kind: str, stages: tuple[str, ...], value: str, chosen) -> list[dict]:
    """Rows of `evals` or `comparisons` that every report has, in the first one's order, each over the seeds.

    `item_se` is the mean over seeds of the standard error over items that each run gives.
    """
    found = [{figure_key(row, stages): row for row in report[kind] if chosen(row)} for report in reports]
    rows = []
    for key, first in found[0].items():
        same = [by_key.get(key) for by_key in found]
        values = [row and row[value] for row in same]
        if None in values:
            continue
        errors = [row["se"] for row in same if row["se"] is not None]
        named = {name: first[name] for name in (*stages, *KEY)} | {"variant": first.get("variant") or {}}
        item_se = math.fsum(errors) / len(errors) if errors else None
        rows.append(named | {"values": values} | over_seeds(values) | {"item_se": item_se})
    return rows


def figure_key(row: dict, stages: tuple[str, ...]) -> str:
    return json.dumps([[row[name] for name in (*stages, *KEY)], row.get("variant") or {}], sort_keys=True)


def reward_rows(reports: Sequence[dict]) -> list[dict]:
    """Accuracy on held-out pairs of each reward model, of the rule that looks at length alone, and the difference."""
    rows = []
    for stage in reports[0]["reward_cards"]:
        cards = [report["reward_cards"].get(stage, {}) for report in reports]
        if not all("accuracy" in card for card in cards):
            continue
        found = {"pair accuracy": [card["accuracy"] for card in cards]}
        found["length baseline"] = [card["length_baseline"] for card in cards]
        found["difference"] = [a - b for a, b in zip(*found.values(), strict=True)]
        rows += [{"stage": stage, "figure": name, "values": v} | over_seeds(v) for name, v in found.items()]
    return rows


def same_items(reports: Sequence[dict]) -> bool:
    """Whether each suite asked the same items in all runs, with the same examples."""
    keys = ("stage", "suite", "format", "suite_digest", "seeds")
    asked = [
        {json.dumps([run.get(key) for key in keys], sort_keys=True) for run in one["eval_runs"]} for one in reports
    ]
    return all(runs == asked[0] for runs in asked)


def summarise(reports: Sequence[dict], selection: str = "headline") -> dict:
    """The benchmark's figures from the report.json of each seed."""
    chosen = SELECTIONS[selection]
    return {
        "seeds": [report["seed"] for report in reports],
        "same_items": same_items(reports),
        "scores": gathered(reports, "evals", ("stage",), "value", chosen),
        "differences": gathered(reports, "comparisons", ("a", "b"), "delta", chosen),
        "reward_models": reward_rows(reports),
    }


def targets(figures: dict) -> tuple[dict[str, float], bool]:
    """The lower ends that are to be above 0, of the pairs that the recipe has; not met without an interval."""
    ends = {
        f"gold reward in chat, {stage_name(row['b'])} - {stage_name(row['a'])}, lower end above": row["low"]
        for row in figures["differences"]
        if (row["a"], row["b"]) in TARGETS
        and (row["metric"], row["task"], row["format"]) == ("gold_reward", "tinyworld_gold", "chat")
    }
    enough = len(figures["seeds"]) > 1
    return dict.fromkeys(ends, 0.0), enough and all(low is not None and low > 0 for low in ends.values())


def cells(row: dict, metric: str, sign: bool = False) -> list[str]:
    """Mean, standard deviation and interval of a row, in the units of the report."""
    shown = metric_of(metric)
    mean, sd, low, high, item = (
        number(row.get(key) if row.get(key) is None else row[key] * shown.scale, shown.digits, sign and key == "mean")
        for key in ("mean", "sd", "low", "high", "item_se")
    )
    return [mean, sd, "no interval" if row["low"] is None else f"[{low}, {high}]", item]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, its columns aligned."""
    lines = [head, ["---"] * len(head), *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def what(row: dict) -> str:
    shown, task = metric_of(row["metric"]), "" if row["task"] == row["suite"] else f", {row['task']}"
    return f"{shown.name}, {row['format']}{task}{' (%)' if shown.scale == 100 else ''}"


def pair(row: dict) -> str:
    sides = [stage_name(row["b"]), "-", stage_name(row["a"], "pretrain")]
    return " ".join([*sides, *variant_texts(row["variant"])])


def text(figures: dict, name: str) -> str:
    """The tables, with what they hold for."""
    seeds, n = figures["seeds"], len(figures["seeds"])
    columns = ["mean", "sd over seeds", "95% interval", "se over items"]
    scores = [
        [row_name(row, "pretrain"), what(row), *cells(row, row["metric"])]
        for row in sorted(figures["scores"], key=order)
    ]
    changes = [
        [pair(row), what(row), *cells(row, row["metric"], sign=True)]
        for row in sorted(figures["differences"], key=order)
    ]
    judges = [[row["stage"], row["figure"], *cells(row, "acc")[:3]] for row in figures["reward_models"]]
    parts = [f"{name}, {n} training seed{'s' * (n > 1)}: {', '.join(map(str, seeds))}"]
    if scores:
        parts.append(table(["model", "figure", *columns], scores))
    if changes:
        parts.append("Differences, paired by seed:\n\n" + table(["models", "figure", *columns], changes))
    if judges:
        parts.append("Reward models, on held-out pairs (%):\n\n" + table(["stage", "figure", *columns[:3]], judges))
    said = [
        "Interval: Student's t over training seeds; conditional on recipe, data, items and this machine's arithmetic."
    ]
    if n < 2:
        said = ["One seed: no interval. Give two or more to see how the figures vary between training seeds."]
    elif not figures["same_items"]:
        said.append("The evaluated items, or the examples in their prompts, differ between the seeds.")
    said.append("se over items: conditional on a run's checkpoints (mean over the seeds).")
    return "\n\n".join([*parts, "\n".join(said)])


def arguments(recipe: Path, folder: Path, seed: int, rest: list[str], quick: bool) -> list[str]:
    """The words of `align run` for one seed; evaluations keep the recipe's seed unless `rest` sets another."""
    settings = read_settings(recipe)
    fixed = settings.evals.get("seed", settings.seed or 0)
    own = [*(QUICK if quick else []), *(word.replace("{seed}", str(seed)) for word in rest)]
    if not any(word.split("=")[0] == "--evals.seed" for word in own):
        own += ["--evals.seed", str(fixed)]
    return ["run", str(recipe), "--output_dir", str(folder), "--seed", str(seed), *own]


def run_seed(words: list[str], log: Path, quick: bool) -> None:
    """`align run`, in a process of its own; a smoke run in this one, which saves the imports."""
    if quick:
        import align

        code = align.main(words)
    else:
        with log.open("a", encoding="utf-8") as file:
            command = [sys.executable, str(ROOT / "align.py"), *words]
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=os.environ).returncode
    if code:
        last = f":\n{log.read_text(encoding='utf-8')[-3000:]}" if log.exists() else ""
        raise SystemExit(f"align {' '.join(words)} ended with {code}{last}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/tiny", help="a recipe folder")
    parser.add_argument("--output_dir", type=Path, help="holds a run directory per seed (default: runs/seeds-NAME)")
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument("--seeds", type=int, nargs="+", help="the training seeds")
    how_many.add_argument("--count", type=int, help="so many seeds from 0 (default: 3; with --quick 2)")
    parser.add_argument("--figures", choices=list(SELECTIONS), default="headline", help="all: with every task")
    parser.add_argument("--output", type=Path, help="write the tables to a .md file, or the figures to a .json file")
    parser.add_argument("--quick", action="store_true", help="a smoke run: the figures mean nothing")
    args, rest = parser.parse_known_args()
    seeds = list(dict.fromkeys(args.seeds or range(args.count or (2 if args.quick else 3))))
    name = read_settings(args.recipe).name
    with TemporaryDirectory() as temporary:
        folder = args.output_dir or (Path(temporary) if args.quick else Path("runs") / f"seeds-{name}")
        folder.mkdir(parents=True, exist_ok=True)
        reports = []
        for seed in seeds:
            print(f"seed {seed}: {folder / f'seed-{seed}'}", file=sys.stderr)
            words = arguments(args.recipe, folder / f"seed-{seed}", seed, rest, args.quick)
            run_seed(words, folder / f"seed-{seed}.log", args.quick)
            reports.append(json.loads((folder / f"seed-{seed}" / "report.json").read_text(encoding="utf-8")))
    figures = summarise(reports, args.figures)
    wanted, met = targets(figures)
    result = {"figures": figures, "targets": wanted, "met": met, "machine": hardware()}
    tables = text(figures, name)
    if args.output:
        written = json.dumps(result, indent=1) if args.output.suffix == ".json" else tables
        args.output.write_text(written + "\n", encoding="utf-8")
    print(tables)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

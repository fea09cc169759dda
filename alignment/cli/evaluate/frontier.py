"""`align frontier RUN_DIR/ppo`: proxy and gold reward against the KL to the reference, and where gold peaks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.cli.evaluate.judging import REWARD_HELP, load_reward
from alignment.cli.evaluate.sample import add_prompt_arguments

if TYPE_CHECKING:
    from eval.frontier.curves import Point


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stage", metavar="RUN_DIR/ppo", help="the folder of a ppo stage")
    parser.add_argument(
        "--gold",
        metavar="G",
        help="the gold reward: the NAME of a logged rewards/NAME/mean (default: the only logged reward that is not "
        f"trained on); with --prompts {REWARD_HELP}",
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures to a new file")
    add_prompt_arguments(parser, required=False)
    parser.add_argument("--reward", metavar="R", help="with --prompts: the reward trained on (default: the stage's)")
    parser.add_argument("--reference", metavar="CKPT", help="with --prompts: default: the stage's parent")
    parser.add_argument("--format", choices=["plain", "chat"], default="chat", help="with --prompts (default: chat)")
    parser.add_argument("--max_new_tokens", type=int, default=128, help="with --prompts (default: 128)")
    parser.add_argument("--seed", type=int, default=0, help="with --prompts (default: 0)")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.description = (
        f"{parser.description}: from the stage's log, or with --prompts from its step checkpoints (save_steps), "
        "sampled and scored again."
    )


def main(args: argparse.Namespace) -> int:
    from eval.frontier.curves import frontier
    from eval.generation.sampled_rows import require_new, write_json

    if args.json:
        require_new(Path(args.json))
    stage = Path(args.stage)
    points, names = measured(args, stage) if args.prompts else logged(args, stage)
    result = {"stage": stage.name, "source": "checkpoints" if args.prompts else "log", **names, **frontier(points)}
    print("\n".join(lines(result)))
    if args.json:
        write_json(args.json, result)
        print(f"written to {args.json}")
    return 0


def logged(args: argparse.Namespace, stage: Path) -> tuple[list[Point], dict]:
    """The points of the stage's log, and the names of both rewards."""
    from alignment.errors import UserError
    from eval.frontier.points import logged_points, read_metrics

    given = [f"--{name}" for name in ("reward", "reference", "split", "limit") if getattr(args, name) is not None]
    if given:
        raise UserError(f"{', '.join(given)} needs --prompts", fix="add --prompts SOURCE")
    points, gold = logged_points(read_metrics(stage / "metrics.jsonl"), args.gold)
    return points, {"proxy": "reward", "gold": gold}


def measured(args: argparse.Namespace, stage: Path) -> tuple[list[Point], dict]:
    """The points of the stage's checkpoints, sampled and scored, and the names of both rewards."""
    from alignment.data.reading.sources import own_test_split
    from alignment.errors import UserError
    from eval.frontier.gold_peak import require_points
    from eval.frontier.points import measured_points, step_checkpoints
    from eval.generation.generate import Sampling, load_prompts

    checkpoints = step_checkpoints(stage)
    require_points(len(checkpoints) + 1)
    reference = args.reference or parent(stage, "model_name_or_path")
    proxy = args.reward or parent(stage, "reward_model_path")
    if reference is None or proxy is None:
        missing = [f"--{name}" for name, value in (("reference", reference), ("reward", proxy)) if value is None]
        raise UserError(f"{stage}/stage.json names no {', '.join(missing)}", fix=f"give {', '.join(missing)}")
    sampling = Sampling(max_new_tokens=args.max_new_tokens, seed=args.seed, batch_size=args.batch_size)
    reward = load_reward(proxy, args.batch_size)
    gold = None if args.gold is None else load_reward(args.gold, args.batch_size)
    rows, account = load_prompts(args.prompts, args.split or own_test_split(args.prompts), args.limit)
    print(account)
    points = measured_points(checkpoints, reference, rows.to_list(), args.format, sampling, reward, gold)
    return points, {"proxy": proxy, "gold": args.gold}


def parent(stage: Path, key: str) -> str | None:
    """The parent under a key of the stage's recipe: the checkpoint of another stage, or the value as it was given."""
    from alignment.durable.read import read_json

    file = stage / "stage.json"
    name = read_json(file)["parents"].get(key) if file.is_file() else None
    sibling = None if name is None else stage.resolve().parent / name / "checkpoint"
    return str(sibling) if sibling is not None and sibling.is_dir() else name


def lines(result: dict) -> list[str]:
    """The frontier as a table, its peak and its fits, for the terminal."""
    from eval.comparison.table import frontier_table

    found = [frontier_table(result["points"], result["peak"])]
    if peak := result["peak"]:
        place = (
            f"smoothed gold reward is highest at step {peak['step']} (95% interval {peak['low']} to {peak['high']}), "
            f"sqrt(KL) {peak['distance']:.2f}: {peak['gold']:.4f}"
        )
        verdict = "over-optimised since" if peak["over_optimised"] else "no fall beyond noise"
        found += [place, f"fall from there to the end: {peak['fall']:.4f} (p {peak['fall_p']:.2g}): {verdict}"]
    else:
        found.append("no gold reward: give --gold, or log a reward with weight 0 (docs/your-own-reward.md)")
    for fit in result["fits"]:
        top = fitted_peak(fit["peak_distance"], max(point["distance"] for point in result["points"]))
        found.append(
            f"{fit['of']}: R(d) = {fit['start']:.3f} + d (alpha - beta log d), alpha {fit['alpha']:.3f} ± "
            f"{fit['alpha_se']:.3f}, beta {fit['beta']:.3f} ± {fit['beta_se']:.3f}, {top}"
        )
    return found


def fitted_peak(distance: float | None, furthest: float) -> str:
    """The peak of a fitted curve, in words."""
    if distance is None:
        return "no peak"
    return f"peak at sqrt(KL) {distance:.3g}" + (", beyond the points" if distance > furthest else "")

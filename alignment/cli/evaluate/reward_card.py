"""`align reward-card CKPT --pairs FILE`: accuracy, calibration and score statistics of a reward."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.cli.evaluate.judging import REWARD_HELP

if TYPE_CHECKING:
    from reward_models.card.pairs import Samples
    from reward_models.protocol import Reward

CURVES = ("proxy", "gold")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "reward",
        metavar="CKPT",
        help=REWARD_HELP,
    )
    parser.add_argument("--pairs", metavar="FILE", help="preference pairs, in any format that the reward stage reads")
    parser.add_argument(
        "--split", default="train", help="split of the pairs (default: train, which is all of a single file)"
    )
    parser.add_argument(
        "--subset", metavar="COLUMN", help="report the accuracy for each value of this column of the pairs"
    )
    parser.add_argument("--limit", type=int, help="number of pairs, from the first (default: all)")
    parser.add_argument(
        "--min_gap",
        type=float,
        default=0.1,
        help="least gold gap of the pairs that count, if they have gold rewards (default: 0.1)",
    )
    parser.add_argument(
        "--samples", metavar="FILE", help="several completions per prompt with gold scores, for best of n"
    )
    parser.add_argument("--gold", default="gold", help="the column of the samples' gold scores (default: gold)")
    parser.add_argument(
        "--against", metavar="CARD", help="an earlier reward_card.json, to report how the scores have moved"
    )
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--device", help="default: cuda if available")
    parser.add_argument("--dtype", default="auto", help="dtype of a checkpoint, such as bfloat16 (default: as saved)")
    parser.add_argument(
        "--output_dir",
        "--output",
        metavar="DIR",
        type=Path,
        help="default: reward_card in the stage's folder, otherwise in the current folder",
    )


def main(args: argparse.Namespace) -> int:
    from alignment.cli.evaluate.judging import load_reward
    from alignment.durable.unwritable import require_writable
    from alignment.errors import UserError
    from reward_models.card.best_of_n import best_of_n
    from reward_models.card.card import card_markdown, write_card
    from reward_models.card.gold_scores import require_card_columns
    from reward_models.card.pairs import read_pairs, read_samples
    from reward_models.card.pairwise import judge_pairs

    check_arguments(args)
    before = older_scores(args)
    folder = args.output_dir or default_folder(args.reward)
    require_writable(folder)
    pairs = None if args.pairs is None else read_pairs(args.pairs, args.split, args.limit)
    if pairs is not None:
        require_card_columns(pairs, args.subset, "--subset")
    samples = None if args.samples is None else read_samples(args.samples, args.gold)
    reward = load_reward(args.reward, args.batch_size, args.device, args.dtype)
    card = {"reward": args.reward, "pairs": args.pairs, "split": args.split, "samples": args.samples}
    if pairs is not None:
        card |= judge_pairs(reward, pairs, args.min_gap, args.subset)
        if not card["n"]:
            raise UserError(
                "no pair is left to judge the reward on",
                got=f"{len(pairs)} pairs, {card['unscored']} without a score, {card['left_out']} below --min_gap",
            )
    if samples is not None:
        card["best_of_n"] = best_of_n(scored(reward, samples), samples.gold)
    add_drift(card, before)
    write_card(folder, card, args.reward)
    draw(folder, card)
    print(card_markdown(card))
    print(f"\nwritten to {folder}")
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Raise for invalid arguments before anything is read."""
    from alignment.errors import UserError, raise_all

    errors = []
    if args.pairs is None and args.samples is None:
        errors.append(UserError("nothing to judge the reward on", expected="--pairs FILE, --samples FILE or both"))
    for name in ("limit", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            errors.append(UserError(f"--{name} is out of range", got=value, expected="1 or more"))
    if not 0 <= args.min_gap < float("inf"):
        errors.append(UserError("--min_gap is out of range", got=args.min_gap, expected="0 or more, and finite"))
    raise_all(errors)


def scored(reward: Reward, samples: Samples) -> list[list[float]]:
    """The reward's scores of each prompt's completions, from a single call."""
    from alignment.errors import UserError
    from reward_models.calls import scores_of

    groups = zip(samples.prompts, samples.completions, strict=True)
    flat = [(prompt, one) for prompt, some in groups for one in some]
    values = scores_of(reward, [prompt for prompt, _ in flat], [one for _, one in flat], samples.columns)
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        raise UserError(
            "the reward has no opinion on some completions",
            got=f"{len(values) - len(known)} of {len(values)} without a score",
            expected="a score for each completion, to choose the best of n",
        )
    rest = iter(known)
    return [[next(rest) for _ in some] for some in samples.completions]


def older_scores(args: argparse.Namespace) -> tuple[str, dict] | None:
    """(file, summary of scores) of the card to compare with: --against, otherwise the checkpoint's own card."""
    from alignment.durable.read import read_json
    from alignment.errors import UserError
    from reward_models.card.card import CARD_FILE
    from reward_models.card.pairwise import is_summary

    own = Path(args.reward) / CARD_FILE
    file = Path(args.against) if args.against else own if own.is_file() else None
    if file is None:
        return None
    if not file.is_file():
        raise UserError(f"no file {file}", expected="a reward_card.json", fix="correct --against")
    scores = read_json(file, "correct --against, or remove the file").get("scores")
    if scores is None and args.against:
        raise UserError(f"{file} has no scores", expected="a reward card with scores, as --pairs gives it")
    if scores is not None and not is_summary(scores):
        raise UserError(
            f"{file} is damaged",
            got=f"scores: {str(scores)[:80]}",
            expected="a reward card with scores, as --pairs gives it",
            fix="correct --against" if args.against else f"remove {file}",
        )
    return scores and (str(file), scores)


def add_drift(card: dict, before: tuple[str, dict] | None) -> None:
    """Add the change of the scores since an earlier card, if there is one."""
    from reward_models.card.pairwise import score_drift

    if before and "scores" in card:
        card["drift"] = {"since": before[0], **score_drift(before[1], card["scores"])}


def default_folder(reward: str) -> Path:
    """The folder reward_card next to a stage's checkpoint, otherwise in the current folder."""
    path = Path(reward)
    return path.parent / "reward_card" if path.name == "checkpoint" and path.is_dir() else Path("reward_card")


def draw(folder: Path, card: dict) -> None:
    """Write the reliability plot and the best-of-n curve as SVG files."""
    from alignment.report.charts.plots import Series, line_chart, standalone

    if "calibration" in card:
        points = [(one["confidence"], one["accuracy"]) for one in card["calibration"]["bins"] if one["n"]]
        series = [Series("reward", points), Series("calibrated", [(0.5, 0.5), (1.0, 1.0)], 1)]
        chart = line_chart(series, title="Reliability", x_label="confidence", y_label="accuracy")
        (folder / "reliability.svg").write_text(standalone(chart), encoding="utf-8")
    if "best_of_n" in card:
        series = [Series(key, [(one["kl"], one[key]) for one in card["best_of_n"]], i) for i, key in enumerate(CURVES)]
        chart = line_chart(series, title="Best of n", x_label="KL in nats, log n - (n - 1) / n", y_label="score")
        (folder / "best_of_n.svg").write_text(standalone(chart), encoding="utf-8")

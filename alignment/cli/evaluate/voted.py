"""`align winrate VOTES`: what people voted in `align chat --web`."""

import argparse
from pathlib import Path
from typing import Any

from alignment.errors import UserError, raise_all

SAID = {"a": "better", "b": "worse", "tied": "tied", "unknown": "no verdict: a single prompt"}


def report_votes(args: argparse.Namespace) -> int:
    """Print the figures of a file of votes."""
    from eval.generation.sampled_rows import require_new, write_json
    from eval.generation.votes import read_votes, vote_figures

    check_votes_arguments(args)
    if args.json:
        require_new(Path(args.json))
    figures = vote_figures(read_votes(args.a))
    print("\n".join(vote_lines(args.a, figures)))
    if args.json:
        write_json(args.json, {"votes": args.a, **figures})
        print(f"written to {args.json}")
    return 0


def check_votes_arguments(args: argparse.Namespace) -> None:
    """Raise if the only side is no file, or for options of a judge."""
    errors = []
    if not Path(args.a).is_file():
        errors.append(
            UserError(
                "one side is missing, or the file of votes is",
                got=args.a,
                expected="A B --judge J, or a file of votes that `align chat --web` wrote",
            )
        )
    given = [f"--{name}" for name in ("judge", "prompts", "split", "n") if getattr(args, name) is not None]
    if given:
        errors.append(UserError("a file of votes needs no such option", got=", ".join(given), fix="leave it out"))
    raise_all(errors)


def vote_lines(name: str, figures: dict[str, Any]) -> list[str]:
    """Return the figures as lines for the terminal."""
    counts = figures["counts"]
    lines = [
        f"{name}: {figures['n']} votes on {figures['prompts']} prompts: {counts['a'] + counts['b']} name a winner, "
        f"{counts['tie']} ties, {counts['both_bad']} both bad (half a win each)"
    ]
    if figures["unreadable"]:
        lines.append(f"left out: line {', '.join(map(str, figures['unreadable']))}, which are no votes")
    for pair in figures["pairs"]:
        interval = "" if pair["ci_low"] is None else f" [{pair['ci_low']:.1%}, {pair['ci_high']:.1%}]"
        lines.append(
            f"win rate of {pair['a']} over {pair['b']}: {pair['win_rate']:.1%}{interval}, {SAID[pair['verdict']]}; "
            f"{pair['win']} wins, {pair['tie']} ties, {pair['loss']} losses"
        )
    lines += [_rating_line(one) for one in figures["ratings"]]
    if figures["ratings_note"]:
        lines.append(f"no ratings: {figures['ratings_note']}")
    position = figures["position"]
    if position["n"]:
        interval = "" if position["ci_low"] is None else f" [{position['ci_low']:.1%}, {position['ci_high']:.1%}]"
        lines.append(
            f"position: the reply shown first won {position['first']:.1%}{interval} of {position['n']} votes "
            "(50% without bias)"
        )
    return lines


def _rating_line(one: dict[str, Any]) -> str:
    interval = "" if one["ci_low"] is None else f" [{one['ci_low']:.0f}, {one['ci_high']:.0f}]"
    open_ended = "" if one["bounded"] else ", not bounded: a model won or lost every vote"
    return f"rating of {one['name']}: {one['rating']:.0f}{interval} (Bradley-Terry, {one['games']} votes{open_ended})"

"""The votes that people gave in `align chat --web`: win rates, ratings, position bias, and their course."""

from __future__ import annotations

import datetime
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignment.errors import UserError
from eval.comparison.intervals import wilson
from eval.comparison.preferences import elo_ratings
from eval.comparison.standard_errors import mean_se
from eval.generation.winrate import win_rate

OUTCOMES = {"a": 1.0, "tie": 0.5, "both_bad": 0.5, "b": 0.0}  # of a, which was shown first
DIGITS = 8  # of a digest, in the name of a model whose name several weights had
SPANS = ((2 * 86400, 86400, "day"), (2 * 3600, 3600, "hour"), (0, 60, "minute"))  # seconds: from this span on, width


@dataclass(frozen=True)
class CastVote:
    """A vote on two replies.

    Attributes:
        prompt: the conversation, as JSON.
        models: (name, digest) of the model shown first and of the other.
        vote: a, b, tie or both_bad.
        time: seconds since 1970.
    """

    prompt: str
    models: tuple[tuple[str, str | None], tuple[str, str | None]]
    vote: str
    time: float


def read_votes(path: str | Path) -> tuple[list[CastVote], list[int]]:
    """Read a file of votes; also return the numbers of lines that are no votes, such as one that was cut off.

    Raises:
        UserError: no line is a vote.
    """
    votes, unreadable = [], []
    with Path(path).open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                votes.append(_read_vote(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError):
                unreadable.append(number)
    if unreadable and not votes:
        raise UserError(
            f"{path} has no votes",
            got=f"{len(unreadable)} other lines",
            expected="a file that `align chat --web` wrote",
            fix="for two checkpoints or files of outputs: align winrate A B --judge J",
        )
    return votes, unreadable


def _read_vote(row: dict) -> CastVote:
    first, second = ((str(row["models"][side]["name"]), row["models"][side].get("digest")) for side in ("a", "b"))
    if row["vote"] not in OUTCOMES:
        raise ValueError("no such vote")
    time = datetime.datetime.fromisoformat(row["time"]).timestamp()
    return CastVote(json.dumps(row["prompt"], sort_keys=True), (first, second), row["vote"], time)


def vote_figures(read: tuple[Sequence[CastVote], Sequence[int]]) -> dict[str, Any]:
    """Return the figures of votes. Ties, and votes that both replies are bad, are half a win for each model.

    Votes on the same prompt are not independent: intervals are clustered by prompt.

    Returns:
        {n, prompts, counts: {vote: number}, unreadable: numbers of lines, pairs, ratings, ratings_note, position,
        course}:
        pairs: the figures of `win_rate` for each pair of models, with their names a and b; `both_bad` is part of tie.
        ratings: of `elo_ratings`, Bradley-Terry on the Elo scale; empty with a note that says why.
        position: {first, ci_low, ci_high, n}: how often the reply shown first won, of the votes that name a winner.
        course: {unit, buckets: [{start, a, b, tie, both_bad}]}: counts over time.
    """
    votes, unreadable = read
    names = labels(votes)
    ratings, note = _ratings(votes, names)
    return {
        "n": len(votes),
        "prompts": len({vote.prompt for vote in votes}),
        "counts": {name: sum(vote.vote == name for vote in votes) for name in OUTCOMES},
        "unreadable": list(unreadable),
        "pairs": _pairs(votes, names),
        "ratings": ratings,
        "ratings_note": note,
        "position": _position(votes),
        "course": _course(votes),
    }


def labels(votes: Sequence[CastVote]) -> dict[tuple[str, str | None], str]:
    """Return what each model is called: its name, with its digest if other weights had the same name."""
    models = sorted({model for vote in votes for model in vote.models}, key=str)
    counts = Counter(name for name, _ in models)
    return {
        (name, digest): name if counts[name] == 1 else f"{name}@{(digest or 'unknown')[:DIGITS]}"
        for name, digest in models
    }


def _pairs(votes: Sequence[CastVote], names: dict[tuple[str, str | None], str]) -> list[dict]:
    found: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    for vote in votes:
        a, b = (names[model] for model in vote.models)
        outcome = OUTCOMES[vote.vote]
        found[min(a, b), max(a, b)].append((outcome if a <= b else 1 - outcome, vote.prompt))
    return [
        {"a": a, "b": b, **win_rate(np.array([one for one, _ in rows]), np.array([prompt for _, prompt in rows]))}
        for (a, b), rows in sorted(found.items())
    ]


def _ratings(votes: Sequence[CastVote], names: dict[tuple[str, str | None], str]) -> tuple[list[dict], str | None]:
    if not votes:
        return [], None
    a, b = ([names[vote.models[side]] for vote in votes] for side in (0, 1))
    outcomes = np.array([OUTCOMES[vote.vote] for vote in votes])
    anchor = min(names.values())
    try:
        return elo_ratings(a, b, outcomes, np.array([vote.prompt for vote in votes]), anchor=anchor), None
    except UserError as error:
        return [], str(error)


def _position(votes: Sequence[CastVote]) -> dict[str, Any]:
    decided = [vote for vote in votes if vote.vote in ("a", "b")]
    if not decided:
        return {"first": None, "ci_low": None, "ci_high": None, "n": 0}
    wins, prompts = np.array([OUTCOMES[vote.vote] for vote in decided]), np.array([vote.prompt for vote in decided])
    rate, clusters = float(wins.mean()), len(np.unique(prompts))
    low, high = wilson(rate, mean_se(wins, clusters=prompts), clusters) if clusters > 1 else (None, None)
    return {"first": rate, "ci_low": low, "ci_high": high, "n": len(decided)}


def _course(votes: Sequence[CastVote]) -> dict[str, Any]:
    if not votes:
        return {"unit": "day", "buckets": []}
    times = [vote.time for vote in votes]
    width, unit = next((width, unit) for least, width, unit in SPANS if max(times) - min(times) >= least)
    counts: dict[float, Counter[str]] = defaultdict(Counter)
    for vote in votes:
        counts[vote.time // width * width][vote.vote] += 1
    buckets = [
        {"start": datetime.datetime.fromtimestamp(start, datetime.UTC).isoformat(), **{v: found[v] for v in OUTCOMES}}
        for start, found in sorted(counts.items())
    ]
    return {"unit": unit, "buckets": buckets}

"""Win rate: how often a judge prefers one side's replies to the other's, on the same prompts.

A judge says of each prompt 1 (a is better), 0 (b is), 0.5 (a tie) or None (no opinion). One that compares two replies
is asked in both positions: a side wins if both answers say so, otherwise the pair is a tie
(`reward_models.judges.questions.both_positions`), so that a judge that only likes the first reply calls ties.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from alignment.data.words import split_words
from alignment.errors import UserError
from alignment.tokenization.chat_format import Messages
from eval.comparison import stats
from eval.comparison.preferences import length_controlled_win_rate
from eval.comparison.stats import wilson
from eval.generation.generate import Reward, Sampling, score
from eval.generation.replies import distinct_n
from reward_models.judges.questions import both_positions

if TYPE_CHECKING:
    from eval.harness.run_suite import LoadedModel


class PairwiseJudge(Protocol):
    """Prefers one of two replies by looking at both."""

    def compare(
        self, prompts: Sequence[Messages], a: Sequence[Messages], b: Sequence[Messages]
    ) -> Sequence[float | None]:
        """1 where a is better, 0 where b is, 0.5 for a tie, None where there is no opinion."""


@dataclass(frozen=True)
class Output:
    """A reply to a row {prompt: messages, ...columns}; its tokens, and whether it ended by itself, where known."""

    row: dict
    text: str
    tokens: int | None = None
    ended: bool | None = None

    @property
    def completion(self) -> Messages:
        return [{"role": "assistant", "content": self.text}]


@dataclass(frozen=True)
class Judged:
    """(n,) outcomes of a, NaN for no opinion; of a judge that saw both positions, its answers on the pairs that differ
    when a came first, and when b did (1 where a is better)."""

    outcomes: np.ndarray
    first: np.ndarray | None = None
    second: np.ndarray | None = None


# Outputs ------------------------------------------------------------------------------------------------------------


def outputs_of_checkpoint(
    loaded: LoadedModel, rows: Sequence[dict], format: str, sampling: Sampling
) -> dict[tuple[str, int], Output]:
    """One reply to each prompt that leaves room for one, keyed by its prompt and how often that came before."""
    from eval.generation.sample import draw

    samples = draw(loaded, rows, format, sampling, n=1)
    return keyed(
        [
            Output(row, reply.text, reply.gen_len, not reply.truncated)
            for row, (reply,) in zip(samples.rows, samples.replies, strict=True)
        ]
    )


def outputs_of_file(path: str | Path) -> dict[tuple[str, int], Output]:
    """Outputs in a file of JSON lines: `prompt` and `completion` (each text or messages), or `messages`.

    `tokens` and `ended`, as `align sample` writes them, are read; other columns come along for the judge. A file keeps
    empty replies: they count.

    Raises:
        UserError: a line is not JSON, or holds neither.
    """
    outputs = []
    with Path(path).open(encoding="utf-8", newline="\n") as file:  # a text may hold other line separators
        for number, line in enumerate(file, start=1):
            if line.strip():
                outputs.append(_read_line(line, f"line {number} of {path}"))
    if not outputs:
        raise UserError(f"{path} holds no outputs", got="an empty file", expected="JSON lines")
    return keyed(outputs)


def _read_line(line: str, place: str) -> Output:
    try:
        return _read_output(json.loads(line))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{place} holds no output",
            got=f"{line.strip()[:80]} ({type(error).__name__}: {error})",
            expected='{"prompt": ..., "completion": ...}, each text or messages, or {"messages": [...]}',
            fix="`align sample` writes such files",
        ) from error


def _read_output(row: dict) -> Output:
    own = {"prompt", "completion", "messages", "tokens", "ended"}
    if "messages" in row:
        *prompt, reply = row["messages"]
        if reply["role"] != "assistant":
            raise ValueError("the last message is not the assistant's")
    else:
        prompt, reply = row["prompt"], row["completion"]
        prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        reply = {"content": reply} if isinstance(reply, str) else reply[-1]
    prompt = [{"role": message["role"], "content": message["content"]} for message in prompt]
    if not all(isinstance(message["content"], str) for message in [*prompt, reply]):
        raise ValueError("a message's content is not text")
    columns = {name: value for name, value in row.items() if name not in own}
    return Output({"prompt": prompt, **columns}, reply["content"], row.get("tokens"), row.get("ended"))


def keyed(outputs: Sequence[Output]) -> dict[tuple[str, int], Output]:
    """Outputs by (prompt as JSON, how many outputs to the same prompt came before)."""
    seen, found = Counter(), {}
    for output in outputs:
        prompt = json.dumps(output.row["prompt"], sort_keys=True)
        found[prompt, seen[prompt]] = output
        seen[prompt] += 1
    return found


# Judging ------------------------------------------------------------------------------------------------------------


def judge_by_score(reward: Reward, a: Sequence[Output], b: Sequence[Output], epsilon: float = 0.0) -> Judged:
    """The side with the higher reward wins; scores no more than `epsilon` apart are a tie, and so is the same text."""
    rows = [output.row for output in a]
    scores = [score(reward, rows, [output.text for output in side]) for side in (a, b)]
    margins = np.subtract(*(np.array(side, dtype=float) for side in scores))
    # A reward model may score the same text differently in another batch, by rounding.
    same = np.array([one.text == other.text for one, other in zip(a, b, strict=True)])
    outcomes = np.where(same | (np.abs(margins) <= epsilon), 0.5, margins > 0)
    return Judged(np.where(np.isnan(margins), np.nan, outcomes))


def judge_in_both_positions(judge: PairwiseJudge, a: Sequence[Output], b: Sequence[Output]) -> Judged:
    """One outcome of a judge's answers with a first and with b first; the same text twice is a tie and not asked."""
    differ = [place for place, (one, other) in enumerate(zip(a, b, strict=True)) if one.text != other.text]
    prompts = [a[place].row["prompt"] for place in differ]
    sides = [[side[place].completion for place in differ] for side in (a, b)]
    first = _answers(judge, prompts, *sides) if differ else []
    second = _answers(judge, prompts, *reversed(sides)) if differ else []
    outcomes = np.full(len(a), 0.5)
    outcomes[differ] = np.array([both_positions(*pair) for pair in zip(first, second, strict=True)], dtype=float)
    return Judged(outcomes, np.array(first, dtype=float), 1 - np.array(second, dtype=float))


def _answers(judge: PairwiseJudge, prompts: list, a: list, b: list) -> list[float | None]:
    answers = list(judge.compare(prompts, a, b))
    bad = [answer for answer in answers if answer not in (None, 0, 0.5, 1)]
    if len(answers) != len(prompts) or bad:
        raise UserError(
            "the judge's answers cannot be read",
            got=f"{len(answers)} answers to {len(prompts)} prompts" + (f", {bad[0]!r} among them" if bad else ""),
            expected="1, 0.5, 0 or None for each prompt",
        )
    return answers


# Figures ------------------------------------------------------------------------------------------------------------


def win_rate(outcomes: np.ndarray, clusters: np.ndarray | None = None, level: float = 0.95) -> dict:
    """Mean outcome with its interval.

    Args:
        outcomes: (n,) of 1, 0.5 and 0; NaN for no opinion.
        clusters: (n,) labels; outcomes of one cluster (a prompt) may depend on each other. By default each its own.
        level: of the interval.

    Returns:
        {win_rate, se, ci_low, ci_high, win, tie, loss, unjudged, n, clusters, verdict}: win, tie and loss are counts;
        a tie is half a win in the rate. The verdict is "a", "b" or "tied", where the interval holds 0.5; "unknown"
        where there is no interval. The rates are None where nothing was judged, the interval also for a single cluster.
    """
    clusters = np.arange(len(outcomes)) if clusters is None else np.asarray(clusters)
    judged = ~np.isnan(outcomes)
    values, clusters = outcomes[judged], clusters[judged]
    counts = {
        "win": int(np.sum(values > 0.5)),
        "tie": int(np.sum(values == 0.5)),
        "loss": int(np.sum(values < 0.5)),
        "unjudged": int(np.sum(~judged)),
        "n": len(values),
        "clusters": len(np.unique(clusters)),
    }
    rate = float(np.mean(values)) if len(values) else None
    se = stats.mean_se(values, clusters=clusters) if counts["clusters"] > 1 else None
    low, high = (None, None) if se is None else wilson(rate, se, counts["clusters"], level)
    verdict = "unknown" if low is None else "tied" if low <= 0.5 <= high else "a" if rate > 0.5 else "b"
    return {"win_rate": rate, "se": se, "ci_low": low, "ci_high": high, **counts, "verdict": verdict}


def position_figures(judged: Judged) -> dict | None:
    """{first, disagree}: how often (ties half) the judge prefers the reply that it sees first, 0.5 without bias; and
    the share of pairs on which its two answers differ. None of a judge by scores, or where it has no two answers."""
    if judged.first is None:
        return None
    both = ~np.isnan(judged.first + judged.second)
    if not both.any():
        return None
    first, second = judged.first[both], judged.second[both]
    return {"first": float(np.mean((first + 1 - second) / 2)), "disagree": float(np.mean(first != second))}


def side_figures(outputs: Sequence[Output]) -> dict:
    """{words, tokens, ended, empty, distinct_1, distinct_2} of a side: means and shares, None where not known; in
    scripts without spaces a character is a word."""
    texts = [output.text for output in outputs]
    return {
        "words": float(np.mean([len(split_words(text)) for text in texts])),
        "tokens": _mean([output.tokens for output in outputs]),
        "ended": _mean([output.ended for output in outputs]),
        "empty": float(np.mean([not text.strip() for text in texts])),
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
    }


def _mean(values: list) -> float | None:
    return None if None in values else float(np.mean(values))


def extra_words(a: Sequence[Output], b: Sequence[Output]) -> np.ndarray:
    """(n,): words that a's reply has more than b's."""
    sizes = [[len(split_words(output.text)) for output in side] for side in (a, b)]
    return np.subtract(*sizes).astype(float)


def length_drift(extra: np.ndarray, clusters: np.ndarray) -> dict:
    """{words, ci_low, ci_high}: the mean of (n,) extra words with its 95% interval.

    The interval is None for a single cluster, and where every cluster has the same number of extra words.
    """
    groups, mean = len(np.unique(clusters)), float(extra.mean())
    low, high = stats.t_interval(mean, stats.mean_se(extra, clusters=clusters), groups)
    known = not math.isnan(low)
    return {"words": mean, "ci_low": low if known else None, "ci_high": high if known else None}


def answer_counts(judge: PairwiseJudge | Reward, before: Counter) -> dict | None:
    """{asked, unreadable, failed}: what a judge's `tally` has counted since `before`; None of a judge without one."""
    if not hasattr(judge, "tally"):
        return None
    return {name: judge.tally[name] - before[name] for name in ("asked", "unreadable", "failed")}


def prompt_labels(outputs: Sequence[Output]) -> np.ndarray:
    """The cluster of each output: its row's `cluster` where there is one, else its prompt."""
    return np.array([str(o.row.get("cluster", json.dumps(o.row["prompt"], sort_keys=True))) for o in outputs])


def compare_outputs(
    a: dict[tuple[str, int], Output],
    b: dict[tuple[str, int], Output],
    judge: PairwiseJudge | Reward,
    epsilon: float = 0.0,
) -> dict:
    """The win rate of a over b on the prompts that both answered.

    Args:
        judge: one with `compare`, asked in both positions, or a reward, whose scores are compared.
        epsilon: scores of a reward no more than this apart are a tie.

    Returns:
        `win_rate`'s figures and {only_a, only_b (outputs without a partner), identical, answers (what the judge was
        asked in this comparison: {asked, unreadable, failed}; None if it does not count), position, length_drift,
        length_controlled, sides: {a, b}, items: [{prompt, a, b, outcome}]}.

    Raises:
        UserError: they share no prompt.
    """
    shared = [key for key in a if key in b]
    if not shared:
        raise UserError(
            "the two sides share no prompt", got=f"{len(a)} and {len(b)} outputs", fix="use the same prompts"
        )
    left, right = [a[key] for key in shared], [b[key] for key in shared]
    before = Counter(getattr(judge, "tally", {}))
    if hasattr(judge, "compare"):
        judged = judge_in_both_positions(judge, left, right)
    else:
        judged = judge_by_score(judge, left, right, epsilon)
    outcomes = [None if math.isnan(value) else float(value) for value in judged.outcomes]
    extra, clusters = extra_words(left, right), prompt_labels(left)
    return {
        **win_rate(judged.outcomes, clusters),
        "only_a": len(a) - len(shared),
        "only_b": len(b) - len(shared),
        "identical": sum(x.text == y.text for x, y in zip(left, right, strict=True)),
        "answers": answer_counts(judge, before),
        "position": position_figures(judged),
        "length_drift": length_drift(extra, clusters),
        "length_controlled": length_controlled_win_rate(judged.outcomes, extra, clusters),
        "sides": {"a": side_figures(left), "b": side_figures(right)},
        "items": [
            {"prompt": x.row["prompt"], "a": x.text, "b": y.text, "outcome": outcome}
            for x, y, outcome in zip(left, right, outcomes, strict=True)
        ],
    }

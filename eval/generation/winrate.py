"""Win rate: how often a judge prefers one side's replies to the other side's, on the same prompts.

The outcome for each prompt is 1 if a is better, 0 if b is better, 0.5 for a tie, None for no opinion. The judge is a
reward, whose scores are compared, or a `Comparer`, which is asked in both positions
(`reward_models.judges.positions`): a judge that only prefers what it sees first gives ties.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alignment.data.words import split_words
from alignment.errors import UserError
from alignment.tokenization.chat_format import Messages
from eval.comparison.intervals import t_interval, wilson
from eval.comparison.preferences import length_controlled_win_rate
from eval.comparison.standard_errors import mean_se
from eval.generation.generate import score
from eval.generation.replies import distinct_n
from reward_models.judges.positions import judge_in_both_positions
from reward_models.protocol import Comparer, Reward

if TYPE_CHECKING:
    from eval.generation.sampled_rows import Samples


@dataclass(frozen=True)
class Output:
    """A reply to a row {prompt: messages, ...columns}.

    Attributes:
        tokens: its length; None if unknown.
        ended: whether it ended before the length limit; None if unknown.
    """

    row: dict
    text: str
    tokens: int | None = None
    ended: bool | None = None

    @property
    def completion(self) -> Messages:
        return [{"role": "assistant", "content": self.text}]


@dataclass(frozen=True)
class Judged:
    """Outcomes of pairs of replies.

    Attributes:
        outcomes: (n,) for side a, NaN for no opinion.
        first, second: (m,) a comparer's answers on the pairs that differ with a shown first, and with b shown first, 1
            if a is better; None for a reward.
    """

    outcomes: np.ndarray
    first: np.ndarray | None = None
    second: np.ndarray | None = None


Outputs = dict[tuple[str, int], Output]  # by (prompt as JSON, number of earlier outputs to the same prompt)

# ---- Outputs ----


def outputs_of_samples(samples: Samples) -> Outputs:
    """The only reply to each prompt."""
    return keyed(
        [
            Output(row, reply.text, reply.gen_len, not reply.truncated)
            for row, (reply,) in zip(samples.rows, samples.replies, strict=True)
        ]
    )


def outputs_of_file(path: str | Path) -> Outputs:
    """Outputs in a file of JSON lines: `prompt` and `completion` (each text or messages), or `messages`.

    `tokens` and `ended` are read if present, as `align sample` writes them; the judge gets the other columns. Empty
    replies count.

    Raises:
        UserError: the file is empty, or a line is not an output.
    """
    outputs = []
    with Path(path).open(encoding="utf-8", newline="\n") as file:  # texts may contain other line separators
        for number, line in enumerate(file, start=1):
            if line.strip():
                outputs.append(_read_line(line, f"line {number} of {path}"))
    if not outputs:
        raise UserError(f"{path} has no outputs", got="an empty file", expected="JSON lines")
    return keyed(outputs)


def _read_line(line: str, place: str) -> Output:
    try:
        return _read_output(json.loads(line))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{place} is not an output",
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


def keyed(outputs: Sequence[Output]) -> Outputs:
    """Outputs by their keys, see `Outputs`."""
    seen: Counter[str] = Counter()
    found: Outputs = {}
    for output in outputs:
        prompt = json.dumps(output.row["prompt"], sort_keys=True)
        found[prompt, seen[prompt]] = output
        seen[prompt] += 1
    return found


# ---- Judging ----


def judge_by_score(reward: Reward, a: Sequence[Output], b: Sequence[Output], epsilon: float = 0.0) -> Judged:
    """The side with the higher reward wins; scores at most `epsilon` apart are a tie, and so is the same text."""
    rows = [output.row for output in a]
    scores, others = (np.array(score(reward, rows, [output.text for output in side]), dtype=float) for side in (a, b))
    margins = scores - others
    # By rounding, a reward model may score the same text differently in another batch.
    same = np.array([one.text == other.text for one, other in zip(a, b, strict=True)])
    outcomes = np.where(same | (np.abs(margins) <= epsilon), 0.5, margins > 0)
    return Judged(np.where(np.isnan(margins), np.nan, outcomes))


def judge_by_comparison(judge: Comparer, a: Sequence[Output], b: Sequence[Output]) -> Judged:
    """The side that the judge prefers in both positions wins, otherwise the pair is a tie."""
    prompts = [output.row["prompt"] for output in a]
    found = judge_in_both_positions(judge, prompts, *([output.completion for output in side] for side in (a, b)))
    return Judged(*(np.array(one, dtype=float) for one in (found.preferences, found.a_first, found.b_first)))


# ---- Figures ----


def win_rate(outcomes: np.ndarray, clusters: np.ndarray | None = None, level: float = 0.95) -> dict:
    """Mean outcome with its interval.

    Args:
        outcomes: (n,) of 1, 0.5 and 0; NaN for no opinion.
        clusters: (n,) labels; outcomes of the same cluster (a prompt) may depend on each other. By default every
            outcome is a cluster.
        level: confidence level of the interval.

    Returns:
        {win_rate, se, ci_low, ci_high, win, tie, loss, unjudged, n, clusters, verdict}. win, tie and loss are counts;
        in the rate a tie is half a win. The verdict is "tied" if the interval contains 0.5, otherwise "a" or "b", and
        "unknown" without an interval. The rate is None if nothing was judged, the interval also for a single cluster.
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
    if rate is None or counts["clusters"] < 2:
        return {"win_rate": rate, "se": None, "ci_low": None, "ci_high": None, **counts, "verdict": "unknown"}
    se = mean_se(values, clusters=clusters)
    low, high = wilson(rate, se, counts["clusters"], level)
    verdict = "tied" if low <= 0.5 <= high else "a" if rate > 0.5 else "b"
    return {"win_rate": rate, "se": se, "ci_low": low, "ci_high": high, **counts, "verdict": verdict}


def position_figures(judged: Judged) -> dict | None:
    """Position bias of a comparer; None for a reward, and without a pair that has both answers.

    Returns:
        {first, disagree}: how often the judge prefers the reply that it sees first (a tie counts half, 0.5 without
        bias), and the share of pairs on which its two answers differ.
    """
    if judged.first is None or judged.second is None:
        return None
    both = ~np.isnan(judged.first + judged.second)
    if not both.any():
        return None
    first, second = judged.first[both], judged.second[both]
    return {"first": float(np.mean((first + 1 - second) / 2)), "disagree": float(np.mean(first != second))}


def side_figures(outputs: Sequence[Output]) -> dict:
    """{words, tokens, ended, empty, distinct_1, distinct_2} of a side: means and shares, None if unknown.

    In scripts without spaces a character is a word.
    """
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
    """Words of a's reply minus words of b's reply. -> (n,)"""
    words, others = (np.array([len(split_words(output.text)) for output in side], dtype=float) for side in (a, b))
    return words - others


def length_drift(extra: np.ndarray, clusters: np.ndarray) -> dict:
    """{words, ci_low, ci_high}: the mean of (n,) extra words with its 95% interval.

    The interval is None for a single cluster, and if every cluster has the same number of extra words.
    """
    groups, mean = len(np.unique(clusters)), float(extra.mean())
    low, high = t_interval(mean, mean_se(extra, clusters=clusters), groups)
    known = not math.isnan(low)
    return {"words": mean, "ci_low": low if known else None, "ci_high": high if known else None}


def answer_counts(judge: Comparer | Reward, before: Counter) -> dict | None:
    """{asked, unreadable, failed}: the counts of a judge's `tally` since `before`; None for a judge without a tally."""
    tally = getattr(judge, "tally", None)
    return None if tally is None else {name: tally[name] - before[name] for name in ("asked", "unreadable", "failed")}


def prompt_labels(outputs: Sequence[Output]) -> np.ndarray:
    """The cluster of each output: its row's `cluster` if there is one, otherwise its prompt. -> (n,)"""
    return np.array([str(o.row.get("cluster", json.dumps(o.row["prompt"], sort_keys=True))) for o in outputs])


def compare_outputs(a: Outputs, b: Outputs, judge: Comparer | Reward, epsilon: float = 0.0) -> dict:
    """The win rate of a over b on the prompts that both answered.

    Args:
        judge: a comparer, asked in both positions, or a reward, whose scores are compared.
        epsilon: scores of a reward at most this far apart are a tie.

    Returns:
        The figures of `win_rate`, and only_a and only_b (outputs without a partner), identical, answers (see
        `answer_counts`), position, length_drift, length_controlled, sides: {a, b} and
        items: [{prompt, a, b, outcome}].

    Raises:
        UserError: the sides share no prompt.
    """
    shared = [key for key in a if key in b]
    if not shared:
        raise UserError(
            "the two sides share no prompt", got=f"{len(a)} and {len(b)} outputs", fix="use the same prompts"
        )
    left, right = [a[key] for key in shared], [b[key] for key in shared]
    before = Counter(getattr(judge, "tally", {}))
    if isinstance(judge, Comparer):
        judged = judge_by_comparison(judge, left, right)
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

"""Replies of a checkpoint as rows that the stages read: completions, best of n, and preference pairs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignment.durable.atomic import new_file
from alignment.durable.unwritable import errors_of_place, make_folder, require_writable_file
from alignment.errors import UserError
from eval.generation.choose import best, preference_pairs, without_reply
from eval.generation.generate import Sampling, encode_prompts, fitting, generate, score
from reward_models.card.best_of_n import best_of_n_kl
from reward_models.protocol import Reward

if TYPE_CHECKING:
    from eval.harness.lm import Reply
    from eval.harness.run_suite import LoadedModel

EQUAL_REPLIES = "equal replies"


@dataclass
class Samples:
    """Replies to prompts, with their scores by a reward if there is one.

    Attributes:
        rows: {prompt: messages, ...other columns} of the prompts that leave room for a reply.
        replies: the replies to each row.
        scores: the score of each reply; None without a reward.
        too_long: number of prompts that leave no room.
        keep_truncated: whether replies that the length limit cut off can be chosen.
    """

    rows: list[dict]
    replies: list[list[Reply]]
    scores: list[list[float | None]] | None = None
    too_long: int = 0
    keep_truncated: bool = False

    @property
    def ended(self) -> list[list[bool]] | None:
        """Whether each reply ended before the length limit; None if truncated replies can be chosen too."""
        if self.keep_truncated:
            return None
        return [[not reply.truncated for reply in replies] for replies in self.replies]

    @property
    def texts(self) -> list[list[str]]:
        return [[reply.text for reply in replies] for replies in self.replies]

    @property
    def known_scores(self) -> list[list[float | None]]:
        """The scores, for a choice among replies, which needs a reward."""
        if self.scores is None:
            raise ValueError("no reward has scored the replies")
        return self.scores


def draw(
    loaded: LoadedModel,
    rows: Sequence[dict],
    format: str,
    sampling: Sampling,
    n: int,
    reward: Reward | None = None,
) -> Samples:
    """`n` replies of a model to each row's prompt, scored if there is a reward."""
    model, tokenizer = loaded
    prompts = encode_prompts(tokenizer, [row["prompt"] for row in rows], format)
    places = fitting(model, tokenizer, prompts, sampling.max_new_tokens)
    kept = [rows[place] for place in places]
    replies = generate(model, tokenizer, [prompts[place] for place in places], sampling, n)
    return scored(Samples(kept, replies, too_long=len(rows) - len(kept)), reward)


def scored(samples: Samples, reward: Reward | None) -> Samples:
    """The same samples, with the scores of a reward if there is one; every prompt has as many replies."""
    if reward is not None and samples.rows:
        n = len(samples.replies[0])
        flat = score(
            reward, [row for row in samples.rows for _ in range(n)], [text for texts in samples.texts for text in texts]
        )
        samples.scores = [flat[start : start + n] for start in range(0, len(flat), n)]
    return samples


def completion_rows(samples: Samples) -> list[dict]:
    """A row {...columns, prompt, completion, sample, tokens, ended, score} for each reply."""
    rows: list[dict] = []
    for place, (row, replies) in enumerate(zip(samples.rows, samples.replies, strict=True)):
        for number, reply in enumerate(replies):
            found: dict[str, Any] = {"sample": number, "tokens": reply.gen_len, "ended": not reply.truncated}
            if samples.scores is not None:
                found["score"] = samples.scores[place][number]
            rows.append(row | {"completion": [_said(reply.text)]} | found)
    return rows


def best_rows(samples: Samples) -> tuple[list[dict], Counter[str]]:
    """A row {messages, score, n} with the best reply to each prompt, and the reasons why other prompts have none."""
    rows: list[dict] = []
    without: Counter[str] = Counter()
    ended: Sequence[list[bool] | None] = samples.ended or [None] * len(samples.rows)
    for row, texts, scores, whole in zip(samples.rows, samples.texts, samples.known_scores, ended, strict=True):
        place = best(texts, scores, whole)
        if place is None:
            without[without_reply(whole, "no reply with text and score")] += 1
        else:
            messages = [*row["prompt"], _said(texts[place])]
            rows.append({"messages": messages, "score": scores[place], "n": len(texts)})
    return rows, without


def pair_rows(
    samples: Samples, against: str, min_margin: float, seed: int, start: int = 0
) -> tuple[list[dict], Counter[str]]:
    """A row with the preference pair of each prompt, and the reasons why other prompts have none.

    Args:
        start: the position of the first prompt, if these are part of a longer list.

    Returns:
        rows {prompt, chosen, rejected, score_chosen, score_rejected, score_margin}, and reason -> number of prompts.
    """
    known = samples.known_scores
    pairs, without = preference_pairs(
        samples.texts, known, against=against, min_margin=min_margin, seed=seed, ended=samples.ended, start=start
    )
    rows: list[dict] = []
    for place, pair in pairs.items():
        texts, scores = samples.texts[place], known[place]
        sides = {"chosen": pair.chosen, "rejected": pair.rejected}
        row: dict[str, Any] = {"prompt": samples.rows[place]["prompt"]}
        row |= {side: [_said(texts[number])] for side, number in sides.items()}
        row |= {f"score_{side}": scores[number] for side, number in sides.items()}
        # Not `margin`: TRL's RewardTrainer uses a column of that name in its loss.
        rows.append(row | {"score_margin": row["score_chosen"] - row["score_rejected"]})
    return rows, without


def two_rows(samples: Samples) -> tuple[list[dict], Counter[str]]:
    """A row {...columns, prompt, reply_a, reply_b} with the first two different replies to each prompt, for a judge.

    Returns:
        rows, and reason -> number of prompts without one.
    """
    rows: list[dict] = []
    without: Counter[str] = Counter()
    ended: Sequence[list[bool] | None] = samples.ended or [None] * len(samples.rows)
    for row, texts, whole in zip(samples.rows, samples.texts, ended, strict=True):
        usable = [text for place, text in enumerate(texts) if text.strip() and (whole is None or whole[place])]
        other = next((text for text in usable[1:] if text.strip() != usable[0].strip()), None)
        if other is None:
            reason = "all replies the same" if len(usable) > 1 else "fewer than two replies with text"
            without[without_reply(whole, reason)] += 1
        else:
            rows.append(row | {"reply_a": [_said(usable[0])], "reply_b": [_said(other)]})
    return rows, without


def versus_rows(
    samples: Samples, others: Sequence[Sequence[Reply]], model: str, other: str
) -> tuple[list[dict], list[dict]]:
    """A row {...columns, prompt, reply_a, reply_b, model_a, model_b} for each reply of a model and one of another.

    Args:
        others: the other model's replies to each row, as many as the model's.

    Returns:
        rows; and, with the reason as `left_out`, those that no judge can compare: with equal or with empty replies.
    """
    rows: list[dict] = []
    left_out: list[dict] = []
    for row, texts, group in zip(samples.rows, samples.texts, others, strict=True):
        for a, b in zip(texts, [reply.text for reply in group], strict=True):
            made = row | {"reply_a": [_said(a)], "reply_b": [_said(b)], "model_a": model, "model_b": other}
            if a.strip() == b.strip():
                left_out.append(made | {"left_out": EQUAL_REPLIES})
            elif not (a.strip() and b.strip()):
                left_out.append(made | {"left_out": "an empty reply"})
            else:
                rows.append(made)
    return rows, left_out


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def summary(samples: Samples, chosen: bool = False) -> list[str]:
    """Number, length and scores of the replies, in lines for the terminal.

    Args:
        chosen: whether the rows are chosen replies (best of n, pairs).
    """
    replies = [reply for group in samples.replies for reply in group]
    truncated = sum(reply.truncated for reply in replies)
    ended = 1 - truncated / len(replies)
    lines = [
        f"{len(replies)} replies to {len(samples.rows)} prompts, {np.mean([r.gen_len for r in replies]):.1f} tokens "
        f"on average; {ended:.1%} ended before the length limit"
    ]
    if samples.too_long:
        asked = samples.too_long + len(samples.rows)
        lines.append(f"left out: {samples.too_long} of {asked} prompts leave no room for a reply (--max_new_tokens)")
    if chosen and truncated:
        what = "can be chosen" if samples.keep_truncated else "left out; --keep_truncated keeps them"
        lines.append(f"{truncated} replies truncated at --max_new_tokens: {what}")
    if samples.scores is not None:
        lines += _score_lines(samples.scores, samples.ended if chosen and truncated else None)
    return lines


def _score_lines(scores: list[list[float | None]], ended: list[list[bool]] | None) -> list[str]:
    judged = [value for group in scores for value in group if value is not None]
    unjudged = sum(map(len, scores)) - len(judged)
    lines = [f"{unjudged} replies have no score"] if unjudged else []
    if not judged:
        return lines
    lines.append(f"score {np.mean(judged):.4f} on average")
    n = len(scores[0])
    usable = [[True] * n for _ in scores] if ended is None else ended
    groups = [
        [value for value, use in zip(*pair, strict=True) if use and value is not None]
        for pair in zip(scores, usable, strict=True)
    ]
    tops = [max(values) for values in groups if values]
    if n > 1 and tops:
        lines[-1] += f", best of {n} {np.mean(tops):.4f}"
        # Leaving truncated replies out changes the distribution too, by at most -log of the share that ended.
        if ended is None:
            lines[-1] += f" (KL to the checkpoint at most {best_of_n_kl(n):.3f} nats)"
        else:
            lines[-1] += " of the replies that ended"
    return lines


def write_rows(path: str | Path, rows: Iterable[dict]) -> None:
    """Write JSON lines atomically.

    Raises:
        UserError: the file exists.
    """
    write_new(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: str | Path, result: dict) -> None:
    """Write a result as JSON, as `write_rows` does."""
    write_new(path, [json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False), "\n"])


def write_new(path: str | Path, parts: Iterable[str]) -> None:
    """Write a new file atomically, so that an interrupted run leaves no partial file."""
    path = Path(path)
    require_new(path)
    make_folder(path.parent)
    with new_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(parts)


def require_new(path: Path) -> None:
    """Raise if a file exists or cannot be written, before anything is generated for it."""
    with errors_of_place(path):
        there = path.exists()
    if there:
        raise UserError("the output file exists", got=path, fix="remove it, or choose another name")
    require_writable_file(path)

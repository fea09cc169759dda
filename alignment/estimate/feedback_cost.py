"""Count the questions of a judge or critic, and predict what a local model takes to answer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.data.reading.row_formats import CONVERSATIONS
from alignment.data.tokenizing.encoding import render
from alignment.estimate.sampling import Questions, SamplingEstimate, estimate_sampling, saved_precision
from alignment.estimate.shape import shape_of
from alignment.text import gigabytes, rough_duration, short_number

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from alignment.estimate.compute import Device
    from alignment.stages.made_rows.rows_to_come import Asking
    from alignment.tokenization.chat_format import Messages

TRIED = 100  # rows whose questions are tokenized


@dataclass(frozen=True)
class RowsRead:
    """The rows that a data stage will read, as far as they are known.

    Attributes:
        count: the number of rows.
        at_most: whether there may be fewer, as an earlier stage has yet to write them.
        sample: some rows; of rows that are yet to be written, with empty replies.
        reply_tokens: of each reply at most, beyond those in the sample.
    """

    count: int
    at_most: bool
    sample: Sequence[Mapping[str, Any]]
    reply_tokens: int = 0


def rows_with(prompts: Sequence[Messages], kind: str) -> list[dict[str, Any]]:
    """Rows of a kind with empty replies to prompts."""
    if kind == CONVERSATIONS:
        return [{"messages": [*prompt, {"role": "assistant", "content": ""}]} for prompt in prompts]
    empty = [{"role": "assistant", "content": ""}]
    return [{"prompt": prompt, "chosen": empty, "rejected": empty} for prompt in prompts]


def prompts_of(rows: Sequence[Mapping[str, Any]]) -> list[Messages]:
    """The prompts of canonical rows."""
    return [row["prompt"] if "prompt" in row else row["messages"][:-1] for row in rows]


def estimate_asking(
    asking: Asking,
    rows: RowsRead,
    model: tuple[PreTrainedTokenizerBase, PreTrainedConfig, PeftConfig | None],
    batch: int,
    rows_per_part: int,
    device: Device,
) -> SamplingEstimate | None:
    """Predict the cost of a local model's answers; None without rows whose questions can be counted.

    Args:
        model: tokenizer, config and adapter.
        batch: questions that are answered at a time.
    """
    tokenizer, config, adapter = model
    asked = [question for row in rows.sample[:TRIED] for question in asking.questions(row)]
    lengths = [len(render(tokenizer, question, prompt=True)) + asking.replies * rows.reply_tokens for question in asked]
    if not lengths:
        return None
    questions = Questions(
        rows=rows.count * asking.per_row,
        mean_tokens=sum(lengths) / len(lengths),
        longest_tokens=max(lengths),
        answer_tokens=asking.answer_tokens,
        batch=batch,
        rows_per_part=rows_per_part * asking.per_row,
    )
    return estimate_sampling(shape_of(config, adapter), questions, device, saved_precision(config))


def describe_asking(asking: Asking, rows: RowsRead, found: SamplingEstimate | None) -> list[str]:
    """The questions of a judge or critic as indented lines, with the cost of a local model if it is known."""
    count, most_of = rows.count * asking.per_row, "at most " if rows.at_most else ""
    lines = [("asked", f"{most_of}{count:,} questions to each model ({rows.count:,} rows x {asking.how})")]
    if asking.endpoints:
        most = count * asking.endpoints
        limit = "" if asking.max_requests is None else f", limited to {asking.max_requests:,} by max_requests"
        lines.append(("calls", f"{most_of}{most:,} requests to endpoints{limit}"))
    if found is not None:
        most = found.questions.answer_tokens
        wrote = f", at most {short_number(found.generated)} generated" if most > 1 else ""
        read = f"about {short_number(found.read)} read" + (
            " if all replies have full length" if rows.reply_tokens else ""
        )
        total, device = gigabytes(found.total_memory), gigabytes(found.device.memory)
        lines += [("model", f"{short_number(found.parameters)} parameters"), ("tokens", read + wrote)]
        if found.seconds is not None:
            lines.append(("time", f"about {rough_duration(found.seconds)} on {found.device.name}"))
        lines.append(("memory", f"about {total} of {device} GB: {found.verdict}"))
    return [f"  {label:8}{text}" for label, text in lines]

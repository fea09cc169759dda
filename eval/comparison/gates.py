"""Limits on regressions, for continuous integration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from alignment.errors import UserError

ROUNDING = 1e-9  # 0.55 - 0.5 is not worse than 0.05


@dataclass(frozen=True)
class Gate:
    """The largest loss that is allowed on some tasks.

    Attributes:
        tasks: glob over TASK or TASK/METRIC.
        limit: the largest allowed loss, in units of the score.
    """

    tasks: str
    limit: float

    def covers(self, row: dict) -> bool:
        """Whether the glob matches a comparison row."""
        name = f"{row['task']}/{row['metric']}" if "/" in self.tasks else row["task"]
        return fnmatchcase(name, self.tasks)


def parse_gate(text: str) -> Gate:
    """Parse `TASK:DELTA`.

    Raises:
        UserError: the text has another form, or DELTA is negative.
    """
    tasks, _, limit = text.rpartition(":")
    try:
        value = float(limit)
    except ValueError:
        value = float("nan")
    if not tasks or not 0 <= value < float("inf"):
        raise UserError(
            "--fail-on-regression cannot be parsed.",
            got=text,
            expected="TASK:DELTA, such as gsm8k:0.02, *:0.05 or mmlu/acc:0; TASK may be a glob, DELTA is not negative",
        )
    return Gate(tasks, value)


def check_gates(rows: list[dict], gates: Sequence[Gate], *, strict: bool = False) -> list[dict]:
    """Apply gates to a comparison.

    Args:
        rows: rows of `compare`.
        gates: each applies to the rows that its glob covers, in every suite, format and pair.
        strict: fail unless the interval (or, without an interval, the verdict better) rules out a loss beyond the
            limit. Otherwise a gate fails if the loss is beyond the limit and the verdict is worse or unknown: noise
            alone does not fail a gate, but a passed gate does not prove that nothing was lost. With an unknown verdict
            noise cannot be separated from loss.

    Returns:
        For each gate and each row that it covers, {gate, strict, failed, loss, loss_high, limit, a, b, suite, format,
        variant, task, metric, verdict}. `loss` is how much worse b is, `loss_high` the worse end of the interval (None
        without an interval).

    Raises:
        UserError: gates that cover no row; all of them are named.
    """
    idle = [gate.tasks for gate in gates if not any(gate.covers(row) for row in rows)]
    if idle:
        raise UserError(
            "--fail-on-regression names tasks that were not compared.",
            got=", ".join(idle),
            expected=f"a task (or TASK/METRIC), or a glob: {', '.join(dict.fromkeys(row['task'] for row in rows))}",
        )
    return [_outcome(gate, row, strict) for gate in gates for row in rows if gate.covers(row)]


def _outcome(gate: Gate, row: dict, strict: bool) -> dict:
    lower_is_better = row["higher_is_better"] is False
    loss = row["delta"] if lower_is_better else -row["delta"]
    end = row["ci_high"] if lower_is_better else row["ci_low"]
    loss_high = None if end is None else end if lower_is_better else -end
    beyond = loss > gate.limit + ROUNDING
    not_ruled_out = row["verdict"] != "better" if loss_high is None else loss_high > gate.limit + ROUNDING
    kept = ("a", "b", "suite", "format", "variant", "task", "metric", "verdict")
    return {
        "gate": f"{gate.tasks}:{gate.limit:g}",
        "strict": strict,
        "failed": not_ruled_out if strict else beyond and row["verdict"] in ("worse", "unknown"),
        "loss": loss,
        "loss_high": loss_high,
        "limit": gate.limit,
    } | {name: row[name] for name in kept}

"""The recipe key `label_column` of DPO and reward models: a column with the probability of each pair's chosen reply."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, DatasetDict, Value

from alignment.data.reading.row_formats import KINDS, MARGIN
from alignment.errors import UserError, raise_all
from alignment.trainers.soft_labels import PROBABILITY, SFT_LOSS, SOFT_LOSS

# Keys of DPO under which its loss is no function of the one logit whose sign a label turns.
PLAIN_LOSS = {"f_divergence_type": "reverse_kl", "ld_alpha": None, "use_weighting": False}


@dataclass
class SoftLabelKeys:
    """Mixed in before a TrainingArguments class."""

    label_column: str | None = field(
        default=None,
        metadata={
            "help": "A column with the probability that the chosen reply is better, such as `preference` of a judge "
            "stage: a pair's loss is the mean over both labels with this probability. Default: all labels count fully."
        },
    )


def require_plain_loss(args: Any) -> None:
    """Raise for keys of DPO with which `label_column` has no meaning.

    Raises:
        UserErrors: one per key.
    """
    if args.label_column is None:
        return
    found = {key: getattr(args, key) for key in PLAIN_LOSS}
    found["f_divergence_type"] = getattr(found["f_divergence_type"], "value", found["f_divergence_type"])
    errors = [
        UserError(f"label_column has no meaning with {key}", got=found[key], expected=value, fix=f"remove {key}")
        for key, value in PLAIN_LOSS.items()
        if found[key] != value
    ]
    if SOFT_LOSS not in args.loss_type or not {*args.loss_type} <= {SOFT_LOSS, SFT_LOSS}:
        weights = " --loss_weights null" if args.loss_weights is not None else ""
        errors.append(
            UserError(
                "label_column has no meaning with loss_type",
                got=args.loss_type,
                expected=f"[{SOFT_LOSS}], or [{SOFT_LOSS}, {SFT_LOSS}]",
                fix=f"--loss_type '[{SOFT_LOSS}]'{weights}",
            )
        )
    if args.torch_compile:
        errors.append(UserError("label_column does not work with torch_compile", fix="remove torch_compile"))
    raise_all(errors)


def trained_pairs(splits: DatasetDict, label_column: str | None, *columns: str) -> DatasetDict:
    """The pairs that a trainer reads, with `label_column` as the column PROBABILITY.

    Args:
        columns: further columns to keep, if a split has them.

    Raises:
        UserError: a split lacks the column, a value is no probability, or the pairs have margins too.
    """
    return DatasetDict({name: _trained(pairs, name, label_column, columns) for name, pairs in splits.items()})


def _trained(pairs: Dataset, split: str, label_column: str | None, columns: tuple[str, ...]) -> Dataset:
    kept = pairs.select_columns([*KINDS["preference"], *(name for name in columns if name in pairs.column_names)])
    if label_column is None:
        return kept
    if label_column not in pairs.column_names:
        raise UserError(
            f"the pairs of the {split} split have no column {label_column!r}, which label_column names",
            got=f"columns {', '.join(pairs.column_names)}",
            expected="a probability per pair, such as the column `preference` of a judge stage",
            fix="correct label_column, or leave it out",
        )
    if MARGIN in kept.column_names:
        raise UserError(
            "pairs have a margin, which has no meaning with a probability of their label",
            got=f"the columns {MARGIN} and {label_column}",
            expected="either",
            fix=f"columns: {{{MARGIN}: data_margin}}, or leave out label_column",
        )
    values = pairs[label_column]
    wrong = [place for place, value in enumerate(values) if not _is_probability(value)]
    if wrong:
        raise UserError(
            f"the column {label_column!r} has values that are no probabilities",
            got=f"{len(wrong)} of {len(values)} pairs of the {split} split, the first {values[wrong[0]]!r}",
            expected="a number from 0 to 1 in every pair",
            fix="correct the values; 1 for a pair whose label is certain",
        )
    return kept.add_column(PROBABILITY, [float(value) for value in values], feature=Value("float64"))


def _is_probability(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 <= value <= 1  # type: ignore[arg-type, operator]

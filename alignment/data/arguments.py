"""The recipe keys that say what a stage learns from."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.errors import UserError


@dataclass
class DataArguments:
    """Which rows a stage trains on, and which it validates on."""

    dataset_name: str = field(
        metadata={
            "help": "A local file, folder or glob (jsonl, json, csv, tsv, parquet, txt; also .gz), "
            "tinyworld:NAME?option=value, or the id of a data set on the hub."
        }
    )
    dataset_config: str | None = field(default=None, metadata={"help": "The configuration of a hub data set."})
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Download no more of a hub data set than the rows that max_train_samples and max_eval_samples ask "
            "for. Other sources are not downloaded at all."
        },
    )
    dataset_train_split: str = field(default="train", metadata={"help": "The split to train on."})
    dataset_test_split: str | None = field(
        default=None,
        metadata={
            "help": "The split to validate on. Default: the validation split of tinyworld or of a local folder, "
            "else `eval_share` of the training split."
        },
    )
    columns: dict[str, str] | None = field(
        default=None, metadata={"help": "Rename columns first, {theirs: ours}, where ours is a recognised name."}
    )
    eval_share: float = field(
        default=0.05,
        metadata={"help": "The share of rows split off for validation where there is no test split. 0: none."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on at most so many rows."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Validate on at most so many rows."})

    def __post_init__(self):
        if not 0 <= self.eval_share < 1:
            raise UserError("eval_share is not a share.", got=self.eval_share, needed="0 or more, less than 1")
        for name in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} leaves no rows.", got=value, needed="1 or more, or null for all rows")

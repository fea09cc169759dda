"""The rows that a data stage reads."""

from dataclasses import dataclass, field

from alignment.data.arguments import DataArguments


@dataclass
class RowArguments(DataArguments):
    """The rows that a data stage reads; all of them, unless `eval_share` says otherwise."""

    eval_share: float = field(
        default=0.0, metadata={"help": "The share of rows to leave out, if there is no test split. 0: none."}
    )

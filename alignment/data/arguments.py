"""The recipe keys for a stage's data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from alignment.errors import UserError, gathered, raise_all, suggestion


@dataclass(frozen=True)
class Source:
    """One source of rows: the recipe's `dataset_name`, or an entry of `datasets`.

    Attributes:
        name: as `dataset_name`.
        config: configuration of a hub data set.
        split: split to train on.
        test_split: split to validate on; None for the source's own test split, or otherwise a share of `split`.
        columns: renamed columns, {source's name: recognised name}.
        weight: this source's weight in the mix, relative to the sum of all weights; None for all rows.
        max_rows: number of rows to read, from the start.
        epochs: how often a row may occur in the mix (0.5: half of the rows occur).
        streaming: download only max_rows of a hub data set.
    """

    name: str
    config: str | None = None
    split: str = "train"
    test_split: str | None = None
    columns: dict[str, str] | None = None
    weight: float | None = None
    max_rows: int | None = None
    epochs: float = 1
    streaming: bool = False

    def __post_init__(self):
        raise_all([*_wrong_texts(self), *_wrong_numbers(self)] or _same_split(self))

    def __str__(self) -> str:
        return f"{self.name}, {self.config}" if self.config else self.name


def _wrong_texts(source: Source) -> list[UserError]:
    values = {name: getattr(source, name) for name in ("name", "config", "split", "test_split")}
    wrong = [name for name, value in values.items() if value is not None and not isinstance(value, str)]
    wrong += [name for name in ("name", "split") if values[name] is None]
    columns = source.columns or {}
    if not isinstance(columns, dict) or not all(isinstance(name, str) for pair in columns.items() for name in pair):
        wrong.append("columns")
    expected = {"columns": "a mapping {column of the source: recognised column}"}
    return [
        UserError(
            f"datasets: {name} cannot take this value.", got=getattr(source, name), expected=expected.get(name, "text")
        )
        for name in wrong
    ] or _wrong_name(source.name)


def _wrong_name(name: str) -> list[UserError]:
    from alignment.data.reading.sources import refuse_misspelt

    if not name.strip():
        return [UserError("datasets: name is empty.", got=repr(name), expected="a file, a folder or a data set")]
    errors: list[UserError] = []
    with gathered(errors):
        refuse_misspelt(name)
    return errors


def _wrong_numbers(source: Source) -> list[UserError]:
    errors = []
    for name in ("weight", "max_rows", "epochs"):
        value = getattr(source, name)
        if value is None and name != "epochs":
            continue
        kinds = (int,) if name == "max_rows" else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not 0 < value < float("inf"):
            expected = "a whole number of at least 1" if name == "max_rows" else "a number above 0"
            errors.append(UserError(f"datasets: {name} leaves no rows of {source.name}.", got=value, expected=expected))
    return errors


def _same_split(source: Source) -> list[UserError]:
    if source.test_split != source.split:
        return []
    return [
        UserError(
            f"{source.name} would be validated on its training split.",
            got=f"the split {source.split} for both",
            expected="two different splits",
            fix="omit the test split: the default is the source's own test split, or eval_share of the rows",
        )
    ]


@dataclass
class DataArguments:
    """The rows that a stage trains and validates on."""

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "A local file, folder or glob (jsonl, json, csv, tsv, txt, md, also .gz; parquet, arrow), "
            "tinyworld:NAME?option=value, python-sources:PACKAGE,... (no package: all that are installed), "
            "or the id of a data set on the hub."
        },
    )
    datasets: list[dict[str, Any]] | None = field(
        default=None,
        metadata={
            "help": "Several sources instead of dataset_name, each a mapping with `name` and optionally config, split, "
            "test_split, columns, weight (its share of the mix), max_rows (number of rows to read), streaming and "
            "epochs (how often a row may occur in the mix; default 1). With weights, the scarcest source limits the "
            "length of the mix; without weights, every source contributes all its rows."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "The configuration of a hub data set."})
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Download only as many rows of a hub data set as max_train_samples and max_eval_samples need. "
            "Other sources are not downloaded."
        },
    )
    dataset_train_split: str = field(default="train", metadata={"help": "The split to train on."})
    dataset_test_split: str | None = field(
        default=None,
        metadata={
            "help": "The split to validate on. Default: the validation split of tinyworld or of a local folder, "
            "otherwise `eval_share` of the training split."
        },
    )
    columns: dict[str, str] | None = field(
        default=None, metadata={"help": "Renamed columns, {column of the data set: recognised column}."}
    )
    eval_share: float = field(
        default=0.05,
        metadata={"help": "The share of rows to split off for validation if there is no test split. 0: none."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Maximum number of training rows."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Maximum number of validation rows."})
    deduplicate: Literal["none", "exact", "near"] = field(
        default="none",
        metadata={
            "help": "Drop training rows that equal an earlier row except for white space (exact), or that also share "
            "most of their five-word sequences with one (near). none keeps duplicates and logs their number."
        },
    )
    near_duplicate_threshold: float = field(
        default=0.8,
        metadata={"help": "Smallest Jaccard similarity of the five-word sequences of near duplicates."},
    )
    min_characters: int | None = field(
        default=None,
        metadata={"help": "Drop training rows whose text or whole conversation is shorter."},
    )
    max_characters: int | None = field(
        default=None,
        metadata={"help": "Drop training rows whose text or whole conversation is longer."},
    )
    decontaminate: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Drop training rows that contain an item of these eval suites: suites' names, paths of lm-eval "
            "YAML, or lm_eval:TASK."
        },
    )
    decontaminate_ngram: int = field(
        default=13,
        metadata={"help": "Number of consecutive words that make a match; a shorter item matches as a whole."},
    )

    def __post_init__(self):
        raise_all([*_wrong_values(self), *_wrong_source(self)])
        self.sources()

    def sources(self) -> list[Source]:
        """Return the sources that the keys name."""
        if self.dataset_name is not None:
            return [
                Source(
                    self.dataset_name,
                    self.dataset_config,
                    self.dataset_train_split,
                    self.dataset_test_split,
                    self.columns,
                    max_rows=self._rows_to_stream() if self.streaming else None,
                    streaming=self.streaming,
                )
            ]
        errors: list[UserError] = []
        sources = []
        for entry in self.datasets or []:
            try:
                sources.append(_read_entry(entry))
            except UserError as error:
                errors.append(error)
        raise_all(errors or _wrong_mixture(sources))
        return sources

    def _rows_to_stream(self) -> int | None:
        """Return the number of rows to download for max_train_samples and the rows split off for validation."""
        if self.max_train_samples is None:
            return None
        share = 0 if self.dataset_test_split else self.eval_share
        return math.ceil(self.max_train_samples / (1 - share))

    @property
    def title(self) -> str:
        """The names of the sources, for display."""
        return ", ".join(str(source) for source in self.sources())


def _wrong_values(args: DataArguments) -> list[UserError]:
    errors = []
    if not 0 <= args.eval_share < 1:
        errors.append(
            UserError("eval_share is not a share.", got=args.eval_share, expected="0 or more, less than 1"),
        )
    for name in ("max_train_samples", "max_eval_samples", "max_characters", "decontaminate_ngram"):
        value = getattr(args, name)
        if value is not None and value < 1:
            expected = "1 or more" + ("" if name == "decontaminate_ngram" else ", or null for all rows")
            errors.append(UserError(f"{name} leaves no rows.", got=value, expected=expected))
    if args.min_characters and args.max_characters and args.min_characters > args.max_characters:
        got = f"min_characters={args.min_characters}, max_characters={args.max_characters}"
        errors.append(UserError("The limits on characters leave no rows.", got=got, expected="min below max"))
    if not 0 < args.near_duplicate_threshold <= 1:
        threshold = args.near_duplicate_threshold
        problem = "near_duplicate_threshold is not a share."
        errors.append(UserError(problem, got=threshold, expected="above 0, at most 1"))
    return errors


def _wrong_source(args: DataArguments) -> list[UserError]:
    """Check that exactly one of dataset_name and datasets is set, and with datasets no key of dataset_name."""
    if args.dataset_name is not None and not str(args.dataset_name).strip():
        return [UserError("dataset_name is empty.", got=repr(args.dataset_name), expected="a file or a data set")]
    if (args.dataset_name is None) == (args.datasets is None):
        got = "neither" if args.dataset_name is None else "both"
        return [UserError("A stage needs either dataset_name or datasets.", got=got, expected="one of them")]
    if args.datasets is None:
        return []
    if not args.datasets:
        return [UserError("datasets names no source.", got=[], expected="a list of mappings, each with a `name`")]
    defaults = {name: DataArguments.__dataclass_fields__[name].default for name in BESIDE_NAME}
    return [
        UserError(f"{name} belongs to dataset_name.", got=getattr(args, name), fix=f"datasets: [{{{key}: ...}}]")
        for name, key in BESIDE_NAME.items()
        if getattr(args, name) != defaults[name]
    ]


# Keys that go with dataset_name -> the key of an entry of `datasets` that means the same.
BESIDE_NAME = {
    "dataset_config": "config",
    "dataset_train_split": "split",
    "dataset_test_split": "test_split",
    "columns": "columns",
    "streaming": "streaming",
}


def _read_entry(entry: dict[str, Any]) -> Source:
    if not isinstance(entry, dict):
        fix = f"- {{name: {entry}}}" if isinstance(entry, str) else None
        raise UserError("datasets: a source is not a mapping.", got=repr(entry), expected="{name: ...}", fix=fix)
    known = [one.name for one in fields(Source)]
    errors = []
    for key in entry:
        if key not in known:
            got = f"{key}: {entry[key]}"
            errors.append(UserError(f"datasets: unknown key {key!r}.", got=got, fix=suggestion(key, known)))
    if "name" not in entry:
        errors.append(UserError("datasets: a source has no name.", got=entry, expected="`name`, as dataset_name"))
    raise_all(errors)
    return Source(**entry)


def _wrong_mixture(sources: list[Source]) -> list[UserError]:
    errors = []
    weights = [source.weight for source in sources]
    if None in weights and set(weights) != {None}:
        without = ", ".join(str(source) for source in sources if source.weight is None)
        errors.append(
            UserError(
                "datasets: only some of the sources have a weight.",
                got=f"no weight for {without}",
                expected="a weight for every source, or for none",
            )
        )
    places = [(source.name, source.config, source.split, source.columns) for source in sources]
    for source in [source for number, source in enumerate(sources) if places[number] in places[:number]]:
        fix = "one entry with a higher weight; `epochs` lets rows occur in the mix several times"
        errors.append(UserError(f"datasets: {source} occurs twice.", got=f"split {source.split}", fix=fix))
    return errors

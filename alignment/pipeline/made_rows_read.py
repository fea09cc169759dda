"""Mistakes in a stage that reads the rows of an earlier stage, before either has run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.data.arguments import DataArguments
from alignment.errors import UserError, gathered
from alignment.pipeline.stage_spec import StageSpec
from alignment.stages.shared.recipe_keys import recipe_key

REPLAY = "replay_dataset_name"  # plain text


def mistakes_in_made_rows(spec: StageSpec, makers: Mapping[str, StageSpec], run_dir: Path) -> list[UserError]:
    """The mistakes of a stage that show from the recipes of the stages that write its rows.

    They are rows of another kind than the stage reads, and columns that the rows will certainly lack.

    Args:
        makers: the stages of the pipeline by name, whose keys and values have no mistakes.
    """
    errors: list[UserError] = []
    configs = spec.configs(run_dir) if spec.rows_from else ()
    for key, stage in spec.rows_from.items():
        maker = makers.get(stage)
        if maker is None or not hasattr(maker.module, "rows_to_come"):
            continue
        rows, where = maker.module.rows_to_come(*maker.configs(run_dir)), f"{spec.recipe_path}: {key}"
        with gathered(errors):
            _require_kind(rows.example, spec, key, configs, where, stage)
        for column, asks in needed_columns(spec, configs):
            if not rows.may_have(column) and column not in _renamed(key, configs).values():
                errors.append(
                    UserError(
                        f"{where} names rows without the column {column!r}, which {asks} needs",
                        got=f"rows of {stage}, with the columns {', '.join(rows.example)}",
                        fix=f"correct {asks}, or remove it",
                    )
                )
    return errors


def needed_columns(spec: StageSpec, configs: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield (column, recipe key) for the columns that a stage cannot do without."""
    from reward_models.functions import needed_columns as columns_of_reward

    for key in ("label_column", "card_subset"):
        if (column := recipe_key(configs, key)) is not None:
            yield column, key
    for reward in recipe_key(configs, "reward_funcs", []):
        yield from ((column, "reward_funcs") for column in columns_of_reward(reward))
    if hasattr(spec.module, "needed_columns"):
        yield from spec.module.needed_columns(*configs)


def _require_kind(
    example: Mapping[str, Any], spec: StageSpec, key: str, configs: Sequence[Any], where: str, stage: str
) -> None:
    """Raise if rows like the example are not of the kind that a stage reads."""
    from datasets import Dataset

    from alignment.data.reading.formats import recognised

    kind = "text" if key == REPLAY else spec.facts.data
    columns = {name: ours for name, ours in _renamed(key, configs).items() if name.partition(".")[0] in example}
    try:
        recognised(Dataset.from_list([dict(example)]), kind, columns)
    except UserError as error:
        raise UserError(
            f"{where} names rows of another kind than {spec.name} reads",
            got=f"rows of {stage}, with the columns {', '.join(example)}",
            expected=f"{kind} rows: {error.expected}",
            fix=error.fix,
        ) from error


def _renamed(key: str, configs: Sequence[Any]) -> Mapping[str, str]:
    """The recipe's `columns` of a source of rows."""
    data = next(config for config in configs if isinstance(config, DataArguments))
    if key == REPLAY:
        return {}
    place = int(key.split(".")[1]) if "." in key else 0
    return data.sources()[place].columns or {}

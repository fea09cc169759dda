"""lineage.json: what a checkpoint was made from, back to random weights, stored with the checkpoint.

It includes the lineage of every parent, so that it is complete in a copy outside the run directory.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alignment.durable.atomic import write_json
from alignment.durable.manifest import LINEAGE, cover, digest_checkpoint, require_intact
from alignment.errors import UserError, gathered, raise_all
from alignment.models.checkpoints import adapter_base, is_adapter, read_lineage, require_sound
from alignment.pipeline.named_rows import is_rows_key
from alignment.pipeline.records.record import RunRecord
from alignment.pipeline.stage_spec import StageSpec
from alignment.stages import DATA, STAGES, TOKENIZER

# Keys of a stage's entry in pipeline.json that its lineage repeats.
KEPT = ("recipe_digest", "data", "code", "git", "seed", "versions", "started")


def require_parents(spec: StageSpec, record: RunRecord, run_dir: Path) -> None:
    """Raise for parents that are damaged or are not the checkpoint that their stage wrote; all mistakes together."""
    errors: list[UserError] = []
    for key, name in spec.parents.items():
        with gathered(errors):
            folder, kind = spec.place_of(key, run_dir), spec.needs(key)
            if kind == DATA:
                require_intact(folder)
            else:
                require_sound(folder, weights=kind != TOKENIZER)
            require_own(name, folder, record)
    for key, name in spec.outside.items():
        with gathered(errors):
            require_sound(Path(name).expanduser(), weights=spec.needs(key) != TOKENIZER)
    raise_all(errors)


def require_finished(stages: Iterable[StageSpec], record: RunRecord, run_dir: Path) -> None:
    """Raise for finished stages with a checkpoint or rows that they did not write; weights are not read."""
    errors: list[UserError] = []
    for spec in stages:
        with gathered(errors):
            folder = run_dir / spec.name / spec.facts.product
            require_sound(folder, weights=False)
            require_own(spec.name, folder, record)
    raise_all(errors)


def require_own(name: str, folder: Path, record: RunRecord) -> None:
    """Raise if a stage's checkpoint, or its rows, are not those recorded in pipeline.json."""
    written = record.stages.get(name, {}).get("checkpoint_digest")
    if written is not None and digest_checkpoint(folder) != written:
        raise UserError(
            f"{folder} is not the {folder.name} that the stage {name} wrote",
            got=f"digest {digest_checkpoint(folder)[:12]}",
            expected=f"{written[:12]}, as recorded in {record.path}",
            fix=f"restore it, or move {folder.parent} away to rerun the stage; to use another {folder.name}, name "
            "its path in the recipe",
        )


def write_lineage(spec: StageSpec, record: RunRecord, run_dir: Path) -> None:
    """Write lineage.json into a stage's new checkpoint or rows, and add it to the manifest."""
    checkpoint = run_dir / spec.name / spec.facts.product
    places = {key: str(spec.place_of(key, run_dir)) for key in spec.parents} | spec.outside
    lineage = {
        "stage": spec.name,
        "method": spec.method,
        "digest": digest_checkpoint(checkpoint),
        "adapter": is_adapter(checkpoint),
        **{key: record.stages[spec.name].get(key) for key in KEPT},
        "parents": {key: lineage_of(place) for key, place in places.items()},
    }
    if lineage["adapter"]:
        base = adapter_base(checkpoint)
        lineage |= {"base": lineage_of(base), "base_digest": lineage_of(base).get("digest")}
    write_json(checkpoint / LINEAGE, lineage)
    cover(checkpoint, LINEAGE)


def lineage_of(place: str) -> dict[str, Any]:
    """The lineage of a checkpoint; for a folder without one its path and digest, for a hub id the id."""
    folder = Path(place).expanduser()
    if not folder.is_dir():
        return {"from": place}
    return read_lineage(folder) or {"from": place, "digest": digest_checkpoint(folder)}


def lineages(run_dir: Path) -> list[dict[str, Any]]:
    """The lineages of a run directory's final checkpoints and rows, which are no other stage's parent."""
    places = [path for product in ("checkpoint", "data") for path in run_dir.glob(f"*/{product}")]
    found = {path.parent.name: read_lineage(path) for path in sorted(places)}
    known = {name: lineage for name, lineage in found.items() if lineage is not None}
    parents = {parent.get("stage") for lineage in known.values() for parent in lineage["parents"].values()}
    return [lineage for name, lineage in known.items() if name not in parents]


def lineage_lines(
    lineage: dict[str, Any], key: str = "", depth: int = 0, seen: set[str | None] | None = None
) -> list[str]:
    """Lines for a checkpoint and, indented below it, for its parents.

    Args:
        key: the recipe key that named it.
        seen: digests of the checkpoints that already have lines.
    """
    seen = set() if seen is None else seen
    start = "  " * depth + (f"{key}: " if key else "")
    digest = lineage.get("digest")
    if "from" in lineage:
        return [f"{start}{lineage['from']}, from outside" + (f", model {short(digest)}" if digest else "")]
    words = [lineage["method"]]
    words += [f"adapter on {base_name(lineage['base'])}"] if lineage.get("adapter") else []
    facts = STAGES.get(lineage["method"])
    has_weights = facts is None or facts.checkpoint not in (TOKENIZER, DATA)
    words += ["from random weights"] if has_weights and not model_parents(lineage) else []
    words += [f"seed {lineage['seed']}"] if lineage.get("seed") is not None else []
    what = "rows" if facts is not None and facts.checkpoint == DATA else "model"
    head = f"{start}{lineage['stage']} ({', '.join(words)}), {what} {short(digest)}"
    if digest in seen:
        return [f"{head}, as above"]
    seen.add(digest)
    indent = "  " * (depth + 1)
    made = f"recipe {short(lineage.get('recipe_digest'))}, code {short(lineage.get('code'))}"
    lines = [head, f"{indent}{made}, started {lineage.get('started') or 'at an unknown time'}"]
    lines += [f"{indent}data {name} {short(one)}" for name, one in (lineage.get("data") or {}).items()]
    for name, parent in lineage["parents"].items():
        lines += lineage_lines(parent, name, depth + 1, seen)
    return lines


def model_parents(lineage: dict[str, Any]) -> list[str]:
    """The recipe keys of parents that are models."""
    return [key for key in lineage["parents"] if key != "tokenizer_name_or_path" and not is_rows_key(key)]


def base_name(base: dict[str, Any]) -> str:
    """The name and digest of an adapter's base."""
    return f"{base.get('stage') or base.get('from')} {short(base.get('digest'))}".rstrip()


def short(digest: str | None) -> str:
    """The first characters of a digest."""
    return "not recorded" if digest is None else digest[:12]

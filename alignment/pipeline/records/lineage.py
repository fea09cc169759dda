"""lineage.json: what a checkpoint was made from, back to random weights, kept with the checkpoint itself.

It holds the lineage of every parent, so that a folder copied out of its run still says where it came from.
"""

from pathlib import Path
from typing import Any

from alignment.durable.atomic import write_json
from alignment.durable.manifest import LINEAGE, cover, digest_checkpoint
from alignment.errors import UserError, gathered, raise_all
from alignment.models.checkpoints import adapter_base, is_adapter, read_lineage, require_sound
from alignment.pipeline.records.record import RunRecord
from alignment.pipeline.stage_spec import StageSpec

# What a stage's entry in pipeline.json says that goes along with its checkpoint.
KEPT = ("recipe_digest", "data", "code", "git", "seed", "versions", "started")


def require_parents(spec: StageSpec, record: RunRecord, run_dir: Path) -> None:
    """Raise for parents that are damaged, or are not what their stage wrote; all that is wrong is reported together."""
    errors: list[UserError] = []
    for key, name in spec.parents.items():
        with gathered(errors):
            weights = spec.module.PARENTS[key] != "tokenizer"
            require_sound(run_dir / name / "checkpoint", weights=weights)
            require_own(name, record, run_dir)
    for key, name in spec.outside.items():
        with gathered(errors):
            require_sound(Path(name).expanduser(), weights=spec.module.PARENTS[key] != "tokenizer")
    raise_all(errors)


def require_standing(names: list[str], record: RunRecord, run_dir: Path) -> None:
    """Raise for finished stages whose checkpoints are not what they wrote, as far as is seen at once."""
    errors: list[UserError] = []
    for name in names:
        with gathered(errors):
            require_sound(run_dir / name / "checkpoint", weights=False)
            require_own(name, record, run_dir)
    raise_all(errors)


def require_own(name: str, record: RunRecord, run_dir: Path) -> None:
    """Raise where a stage's folder holds another checkpoint than pipeline.json says that it wrote."""
    checkpoint, written = run_dir / name / "checkpoint", record.stages.get(name, {}).get("checkpoint_digest")
    if written is not None and digest_checkpoint(checkpoint) != written:
        raise UserError(
            f"{checkpoint} is not the checkpoint that the stage {name} wrote",
            got=f"model digest {digest_checkpoint(checkpoint)[:12]}",
            expected=f"{written[:12]}, as {record.path} has it",
            fix=f"put it back, or move {run_dir / name} away to run the stage again; a checkpoint from elsewhere is "
            "named by its path in the recipes",
        )


def write_lineage(spec: StageSpec, record: RunRecord, run_dir: Path) -> None:
    """Write the lineage of a stage's new checkpoint into it, under its manifest."""
    checkpoint = run_dir / spec.name / "checkpoint"
    places = {key: str(run_dir / name / "checkpoint") for key, name in spec.parents.items()} | spec.outside
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
    """A checkpoint's own lineage; of a foreign folder its path and digest, of a hub id the id."""
    folder = Path(place).expanduser()
    if not folder.is_dir():
        return {"from": place}
    return read_lineage(folder) or {"from": place, "digest": digest_checkpoint(folder)}


def lineages(run_dir: Path) -> list[dict[str, Any]]:
    """The lineages of a run directory's checkpoints that no other stage there was made from."""
    found = {path.parent.name: read_lineage(path) for path in sorted(run_dir.glob("*/checkpoint"))}
    known = {name: lineage for name, lineage in found.items() if lineage is not None}
    parents = {parent.get("stage") for lineage in known.values() for parent in lineage["parents"].values()}
    return [lineage for name, lineage in known.items() if name not in parents]


def lineage_lines(lineage: dict[str, Any], key: str = "", depth: int = 0, told: set[str] | None = None) -> list[str]:
    """A checkpoint and, indented below it, what it was made from.

    Args:
        key: the recipe key that named it.
        told: digests of the checkpoints whose lines are there already.
    """
    told = set() if told is None else told
    start = "  " * depth + (f"{key}: " if key else "")
    digest = lineage.get("digest")
    if "from" in lineage:
        return [f"{start}{lineage['from']}, from outside" + (f", model {short(digest)}" if digest else "")]
    words = [lineage["method"]]
    words += [f"adapter on {base_name(lineage['base'])}"] if lineage.get("adapter") else []
    words += ["from random weights"] if not model_parents(lineage) and lineage["method"] != "tokenizer" else []
    words += [f"seed {lineage['seed']}"] if lineage.get("seed") is not None else []
    head = f"{start}{lineage['stage']} ({', '.join(words)}), model {short(digest)}"
    if digest in told:
        return [f"{head}, as above"]
    told.add(digest)
    indent = "  " * (depth + 1)
    made = f"recipe {short(lineage.get('recipe_digest'))}, code {short(lineage.get('code'))}"
    lines = [head, f"{indent}{made}, started {lineage.get('started') or 'at an unknown time'}"]
    lines += [f"{indent}data {name} {short(one)}" for name, one in (lineage.get("data") or {}).items()]
    for name, parent in lineage["parents"].items():
        lines += lineage_lines(parent, name, depth + 1, told)
    return lines


def model_parents(lineage: dict[str, Any]) -> list[str]:
    return [key for key in lineage["parents"] if key != "tokenizer_name_or_path"]


def base_name(base: dict[str, Any]) -> str:
    return f"{base.get('stage') or base.get('from')} {short(base.get('digest'))}".rstrip()


def short(digest: str | None) -> str:
    return "not recorded" if digest is None else digest[:12]

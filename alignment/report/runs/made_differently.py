"""What differs in how two runs were made: recipe keys, seeds, data, libraries, code and machine."""

from typing import Any

from alignment.report.provenance import machine_text
from alignment.report.recipe_changes import UNSET, changed_keys

LISTED_DIGITS = 12  # of a digest


def differences(first: dict, other: dict) -> list[dict]:
    """[{a, b, stages, key, values: [first's, other's]}], stages with the same difference in one entry.

    Args:
        first, other: runs with `name`, `pipeline` and `stages`, as compared_runs reads them.
    """
    found: dict[tuple, dict] = {}
    for stage in dict.fromkeys([*first["stages"], *other["stages"]]):
        for key, before, after in _of_stage(stage, first, other):
            entry = {"a": first["name"], "b": other["name"], "stages": [], "key": key, "values": [before, after]}
            found.setdefault((key, repr(before), repr(after)), entry)["stages"].append(stage)
    return list(found.values())


def _of_stage(stage: str, first: dict, other: dict) -> list[tuple[str, Any, Any]]:
    """(key, first's value, other's value) of one stage."""
    if stage not in first["stages"] or stage not in other["stages"]:
        held = ["present" if stage in run["stages"] else "absent" for run in (first, other)]
        return [("stage", held[0], held[1])]
    a, b = (run["pipeline"].get("stages", {}).get(stage) or {} for run in (first, other))
    rows = [("seed", a.get("seed"), b.get("seed"))]
    if a.get("recipe") is not None and b.get("recipe") is not None:
        changed = changed_keys(a["recipe"], b["recipe"])
        rows += [(change["key"], change["a"], change["b"]) for change in changed if change["key"] != "seed"]
    else:
        rows.append(("recipe", *(_short(run.get("recipe_digest")) for run in (a, b))))
    rows += _named("data", a.get("data"), b.get("data"))
    rows += _named("version of", a.get("versions"), b.get("versions"))
    rows.append(("code", _short(a.get("code")), _short(b.get("code"))))
    rows.append(("threads", a.get("threads"), b.get("threads")))
    rows.append(("machine", _machine(a), _machine(b)))
    return [row for row in rows if row[1] != row[2]]


def _machine(entry: dict) -> str | None:
    return machine_text(entry["hardware"]) if entry.get("hardware") else None


def _named(what: str, a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """Rows for the named values of both sides, such as the digests of data sources."""
    sides = [value if isinstance(value, dict) else {} for value in (a, b)]
    names = dict.fromkeys([*sides[0], *sides[1]])
    return [(f"{what} {name}", *(_short(side.get(name, UNSET)) for side in sides)) for name in names]


def _short(value: Any) -> Any:
    return value[:LISTED_DIGITS] if isinstance(value, str) and len(value) == 64 else value

"""The report's rows and lines about the origin of its numbers."""

DIGEST_SHOWN = 12


def facts(report: dict) -> list[tuple[str, str]]:
    """Seed and machine, if they were recorded."""
    machine = next((stage["hardware"] for stage in report["stages"].values() if stage.get("hardware")), None)
    return [
        (label, str(value))
        for label, value in (("seed", report.get("seed")), ("machine", machine and machine_text(machine)))
        if value is not None
    ]


def machine_text(machine: dict) -> str:
    """`NVIDIA H100` or `Xeon, 2 cores, 24 GB`."""
    gpus = machine.get("gpus") or []
    parts = [f"{len(gpus)} \N{MULTIPLICATION SIGN} {gpus[0]}" if len(gpus) > 1 else gpus[0]] if gpus else []
    parts += [machine["cpu"]] if machine.get("cpu") else []
    parts += [f"{machine['cores']} cores"] if machine.get("cores") else []
    parts += [f"{machine['memory_gb']:.0f} GB memory"] if machine.get("memory_gb") else []
    return ", ".join(parts)


def stage_rows(report: dict) -> list[dict]:
    """One row per stage: status, seed, commit, and the digests of recipe and checkpoint."""
    return [
        {
            "stage": name,
            "status": stage.get("status"),
            "seed": stage.get("seed"),
            "commit": _commit(stage.get("git")),
            "recipe": _short(stage.get("recipe_digest")),
            "checkpoint": _short(stage.get("checkpoint_digest")),
        }
        for name, stage in report["stages"].items()
    ]


def fault_lines(report: dict) -> list[str]:
    """One line per stage whose training recovered from faults."""
    lines = []
    for name, stage in report["stages"].items():
        said = [f"{count} {kind.replace('_', ' ')}" for kind, count in (stage.get("faults") or {}).items() if count]
        if stage.get("micro_batch"):
            said.append(f"out of memory, then micro-batches of {stage['micro_batch']['per_device_train_batch_size']}")
        if said:
            lines.append(f"{name}: {', '.join(said)}")
    return lines


def suite_rows(report: dict) -> list[dict]:
    """One row per eval run, with the digests of suite, checkpoint and chat template."""
    return [
        {key: run.get(key) for key in ("stage", "suite", "format", "seconds")}
        | {key: _short(run.get(key)) for key in ("suite_digest", "checkpoint_digest", "template_digest")}
        | {"seed": (run.get("seeds") or {}).get("sampling")}
        for run in report.get("eval_runs") or []
    ]


def version_lines(report: dict) -> list[str]:
    """One line per distinct set of library versions, with the stages that used it."""
    sets: dict[str, list[str]] = {}
    for name, stage in report["stages"].items():
        found = ", ".join(
            f"{package} {version}" for package, version in (stage.get("versions") or {}).items() if version
        )
        if found:
            sets.setdefault(found, []).append(name)
    return [found if len(sets) == 1 else f"{', '.join(names)}: {found}" for found, names in sets.items()]


def _short(digest: str | None) -> str | None:
    return digest and digest[:DIGEST_SHOWN]


def _commit(git: dict | None) -> str | None:
    return git["commit"][:DIGEST_SHOWN] + (" with changes" if git.get("dirty") else "") if git else None

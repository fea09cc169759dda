"""The processor, compilers, memory and disk of the machine."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from alignment.doctor.facts import NOTE, Fact
from alignment.durable.unwritable import require_writable
from alignment.errors import UserError
from alignment.text import size_text
from alignment.threads import GROUPS, control_groups, set_by_user, siblings, usable_cores

CPU_INFORMATION, MEMORY_INFORMATION = Path("/proc/cpuinfo"), Path("/proc/meminfo")
# Flags of /proc/cpuinfo (x86, and ARM) -> the name of the instructions.
FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "amx_bf16": "AMX BF16",
    "sve": "SVE",
    "bf16": "BF16",
}
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
UNLIMITED = 2**60  # version 1 of control groups says so by a number near 2**63
LEAST_MEMORY, LEAST_DISK = 2e9, 1e9  # recipes/tiny peaks at 1.6 GB, and its run directory has 0.02 GB


def processor_facts() -> Iterator[Fact]:
    """Yield the processor's model, its cores and its instructions."""
    text = _read(CPU_INFORMATION)
    section = "processor"
    yield Fact(section, "CPU", cpu_model(text))
    if sys.platform == "linux":
        every = len({siblings(cpu) for cpu in range(os.cpu_count() or 1)})
        usable, name = usable_cores(), set_by_user()
        value = f"{every} physical, {usable} usable by this process"
        if name:
            yield Fact(section, "cores", value, NOTE, f"{name}={os.environ[name]} sets the number of threads")
        elif usable < every:
            yield Fact(section, "cores", value, NOTE, "affinity or a quota (a container's, say) holds back the others")
        else:
            yield Fact(section, "cores", value)
    flags = cpu_flags(text)
    named = ", ".join(name for flag, name in FEATURES.items() if flag in flags) or "none of note"
    if flags & BF16:
        yield Fact(section, "features", named, effect="`bf16: true` computes in 16 bit")
    elif flags:
        yield Fact(section, "features", named, NOTE, "no bf16: stages without a GPU train in 32 bit")


def cpu_model(text: str) -> str:
    """Return the processor's name from the text of /proc/cpuinfo."""
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags(text: str) -> set[str]:
    """Return the processor's features from the text of /proc/cpuinfo; x86 calls them flags, ARM Features."""
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return set(lines[0].partition(":")[2].split()) if lines else set()


def compiler_facts(on_gpu: bool) -> Iterator[Fact]:
    """Yield the compilers that torch.compile uses: g++ on a CPU, Triton with gcc on a GPU."""
    keys = "torch_compile and compile_layers"
    for name, variable, used in (("gcc", "CC", on_gpu), ("g++", "CXX", not on_gpu)):
        command = os.environ.get(variable, name)
        place, device = shutil.which(command), "a GPU" if name == "gcc" else "a CPU"
        if place:
            yield Fact("compilers", name, place, effect=f"{keys} on {device}")
        else:
            lost = (
                f"{keys} have no effect on {device}" if name == "g++" else f"Triton cannot build for {keys} on {device}"
            )
            found, fix = "missing", "sudo apt install build-essential"
            if variable in os.environ:
                found, fix = f"{variable}={command} {_unusable(command)}", f"unset {variable}"
            yield Fact("compilers", name, found, NOTE, lost, fix if used else None)


def _unusable(command: str) -> str:
    """Return why torch and Triton cannot run a compiler, which they take as the name of one program."""
    program, *arguments = command.split() or [""]
    if not program:
        return "is empty"
    return "has arguments: torch takes one program" if arguments and shutil.which(program) else "does not exist"


def memory_facts() -> Iterator[Fact]:
    """Yield the free memory, within the limits of control groups."""
    sizes = meminfo(_read(MEMORY_INFORMATION))
    if not sizes:
        return
    free, total, why = sizes["MemAvailable"], sizes["MemTotal"], ""
    limit = memory_limit(_read(Path("/proc/self/cgroup")), GROUPS)
    if limit and limit[0] < total:
        total, free, why = limit[0], min(free, limit[0] - limit[1]), ", by the limit of a control group"
    value = f"{size_text(free)} free of {size_text(total)}{why}"
    if free < LEAST_MEMORY:
        yield Fact("memory and disk", "memory", value, NOTE, "little: recipes/tiny peaks at 1.6 GB")
    else:
        yield Fact("memory and disk", "memory", value)


def meminfo(text: str) -> dict[str, int]:
    """Return the sizes in /proc/meminfo, in bytes."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: 1024 * int(size.split()[0]) for name, _, size in pairs if size.endswith("kB")}


def memory_limit(memberships: str, groups: Path) -> tuple[int, int] | None:
    """Return the least memory limit of a process's control groups and what is used of it, in bytes; None without one.

    Pages of files that the kernel can drop do not count as used.

    Args:
        memberships: the text of /proc/PID/cgroup, as in `threads.quota`.
        groups: where the groups' files are.
    """
    found = [limit for folder in control_groups(memberships, groups, "memory") if (limit := _limit_of(folder))]
    return min(found, default=None)


def _limit_of(group: Path) -> tuple[int, int] | None:
    """Return a group's limit and usage, from the files of version 2 or 1."""
    for limit, usage, droppable in (
        ("memory.max", "memory.current", "inactive_file "),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
    ):
        given, used = _read(group / limit), _read(group / usage)
        if given.isdigit() and used.isdigit() and int(given) < UNLIMITED:
            lines = _read(group / "memory.stat").splitlines()
            cached = sum(int(line.split()[1]) for line in lines if line.startswith(droppable))
            return int(given), max(0, int(used) - cached)
    return None


def disk_fact(folder: Path) -> Fact:
    """Return the free space of a folder, where `runs/` will be, and whether it can be written."""
    name, value = "disk", f"{size_text(shutil.disk_usage(folder).free)} free in {folder}"
    try:
        require_writable(folder)
    except UserError:
        return Fact(
            "memory and disk", name, f"{folder} cannot be written", NOTE, "runs/ is made here", "cd to another folder"
        )
    if shutil.disk_usage(folder).free < LEAST_DISK:
        return Fact(
            "memory and disk",
            name,
            value,
            NOTE,
            "little: a step checkpoint has three times the size of what is trained",
        )
    return Fact("memory and disk", name, value)


def _read(path: Path) -> str:
    """Return a file's text, empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

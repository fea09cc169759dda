"""The threads that this process computes with: how many, and how long they spin while they wait for each other.

torch's libraries read the settings from the environment when they are loaded, so `choose_threads` comes before torch,
and this module imports nothing that does.

- As many threads as physical cores that the process may use: a thread more would wait for a core.
- They spin briefly. By default libgomp's threads spin for milliseconds (300,000 rounds) before they sleep: on a quiet
  machine the fastest way to wait for each other, but a thread that spins keeps a core from the process that the other
  thread waits behind. docs/measurements.md has the figures.
- MKL divides a product among all of them. By default it may take fewer threads, but not once `torch.set_num_threads`
  was called, which gives other bits: a stage that resumes with its own number of threads would differ.

None of these depends on the load of the machine: a stage's weights depend on the number of threads (in which order
sums are formed), and must not depend on what else happened to run.
"""

import math
import os
import sys
from collections.abc import Collection, Mapping, MutableMapping
from pathlib import Path

COUNT = "OMP_NUM_THREADS"
CHOSEN = "ALIGN_CHOSEN_THREADS"  # the number that `choose_threads` set; processes that this one starts inherit both
COUNTS = (COUNT, "MKL_NUM_THREADS")  # either sets the number of torch's threads
SPIN_ROUNDS = "GOMP_SPINCOUNT"
WAITING = (SPIN_ROUNDS, "OMP_WAIT_POLICY")
ROUNDS = 1000
DYNAMIC = "MKL_DYNAMIC"
SYSTEM = Path("/sys/devices/system/cpu")
GROUPS = Path("/sys/fs/cgroup")


def choose_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the number of threads and their spinning in the environment, except where the user has set them.

    Only on Linux, where torch's packages come with libgomp, and not if torch has already read the environment.
    """
    if sys.platform == "linux" and "torch" not in sys.modules:
        environment.update(settings(usable_cores(), environment))


def settings(cores: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to set; a variable that the user has set is left alone."""
    chosen: dict[str, str] = {}
    if not any(environment.get(name) for name in COUNTS):
        chosen |= {COUNT: str(cores), CHOSEN: str(cores)}
    if not any(environment.get(name) for name in WAITING):
        chosen[SPIN_ROUNDS] = str(ROUNDS)
    if not environment.get(DYNAMIC):
        chosen[DYNAMIC] = "FALSE"
    return chosen


def set_by_user(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the variable by which the user, or a launcher, has set the number of threads; None if there is none."""
    given = [name for name in COUNTS if environment.get(name)]
    return given[0] if given and environment[given[0]] != environment.get(CHOSEN) else None


def describe_threads(count: int, environment: Mapping[str, str] = os.environ) -> str:
    """Return the number of threads, how they wait for each other, and the variables that say so, as text."""
    name = set_by_user(environment)
    text = f"{count} thread{'s' if count > 1 else ''}" + (f" ({name}={environment[name]})" if name else "")
    waiting = next((name for name in WAITING if environment.get(name)), None)
    if count == 1 or waiting is None:
        return text
    briefly = "by spinning briefly " if environment[waiting] == str(ROUNDS) else "as set "
    return f"{text}, which wait for each other {briefly}({waiting}={environment[waiting]})"


def usable_cores() -> int:
    """Return how many physical cores this process may use: those of its affinity, at most its group's quota."""
    allowed = os.sched_getaffinity(0)
    return thread_count([siblings(cpu) for cpu in allowed], quota(_read(Path("/proc/self/cgroup")) or "", GROUPS))


def thread_count(siblings: Collection[str], quota: float | None) -> int:
    """Return the number of threads.

    Args:
        siblings: of each allowed processor, a name of its physical core.
        quota: processors' worth of time; a part of one counts as one, as in Java and Go: all threads are held up
            together when the time is used up.
    """
    cores = len(set(siblings))
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def siblings(cpu: int, system: Path = SYSTEM) -> str:
    """Return the list of logical processors that share a physical core with this one; itself if nothing lists them."""
    return _read(system / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu)


def quota(memberships: str, groups: Path) -> float | None:
    """Return the least quota of a process's control groups in processors, None without one.

    Args:
        memberships: the text of /proc/PID/cgroup, lines of ID:CONTROLLERS:PATH; version 2 has no controllers.
        groups: where the groups' files are. In a container the path may be the host's, whose files are not there: the
            folders above it are read too, up to the container's own.
    """
    found = [one for folder in control_groups(memberships, groups, "cpu") if (one := _quota_of(folder))]
    return min(found, default=None)


def control_groups(memberships: str, groups: Path, controller: str) -> list[Path]:
    """Return the folders of a process's control groups for a controller, and those above them (see `quota`)."""
    found: list[Path] = []
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = groups / (controllers and controller)
        place = root / path.strip("/")
        found += [folder for folder in (place, *place.parents) if folder.is_relative_to(root)]
    return found


def _quota_of(group: Path) -> float | None:
    """Return a group's quota in processors, from the files of version 2 or 1."""
    both = _read(group / "cpu.max") or " ".join(
        _read(group / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")
    )
    given, _, period = both.partition(" ")
    return int(given) / int(period) if given.isdigit() and period.isdigit() and int(period) else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None

"""The number of threads and their spinning: from cores, quota and environment; the user's settings are kept."""

import subprocess
import sys
from pathlib import Path

import pytest

from alignment import threads
from alignment.threads import describe_threads, quota, set_by_user, settings, siblings, thread_count

ALL = {"OMP_NUM_THREADS": "4", "ALIGN_CHOSEN_THREADS": "4", "GOMP_SPINCOUNT": "1000", "MKL_DYNAMIC": "FALSE"}
V1, V2 = "9:memory:/a\n3:cpu,cpuacct:/a/b\n0::/a/b", "0::/a/b\n"


@pytest.mark.parametrize(
    ("given", "left_alone"),
    [
        ({}, set()),
        ({"OMP_NUM_THREADS": ""}, set()),
        ({"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS", "ALIGN_CHOSEN_THREADS"}),
        ({"MKL_NUM_THREADS": "3"}, {"OMP_NUM_THREADS", "ALIGN_CHOSEN_THREADS"}),
        ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT"}),
        ({"GOMP_SPINCOUNT": "infinity"}, {"GOMP_SPINCOUNT"}),
        ({"MKL_DYNAMIC": "TRUE"}, {"MKL_DYNAMIC"}),
        ({"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "7", "MKL_DYNAMIC": "TRUE"}, set(ALL)),
        (ALL, set(ALL)),  # inherited from an `align` process
    ],
)
def test_what_is_set_already_is_left_alone(given, left_alone):
    assert settings(4, given) == {name: value for name, value in ALL.items() if name not in left_alone}


@pytest.mark.parametrize(
    ("lists", "limit", "count"),
    [
        (["0", "1"], None, 2),
        (["0,2", "1,3", "0,2", "1,3"], None, 2),  # two logical processors to a core
        (["0", "1", "2", "3"], 64.0, 4),
        ([str(cpu) for cpu in range(64)], 2.0, 2),
        (["0", "1", "2", "3"], 1.5, 2),
        (["0", "1"], 0.2, 1),
    ],
)
def test_threads_are_physical_cores_within_the_quota(lists, limit, count):
    assert thread_count(lists, limit) == count


@pytest.mark.parametrize(
    ("memberships", "files", "expected"),
    [
        (V2, {"a/b/cpu.max": "max 100000"}, None),
        (V2, {"a/b/cpu.max": "150000 100000"}, 1.5),
        (V2, {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000", "cpu.max": "300000 100000"}, 3.0),
        (V2, {"cpu.max": "200000 100000"}, 2.0),  # in a container, whose path is the host's
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000"}, None),
        (V1, {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        (V1, {"memory/a/cpu.max": "100000 100000"}, None),
        ("", {"cpu.max": "100000 100000"}, None),
    ],
)
def test_the_least_quota_of_the_groups_counts(tmp_path, memberships, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert quota(memberships, tmp_path) == expected


def test_siblings_are_read_and_an_unlisted_processor_is_its_own_core(tmp_path):
    (tmp_path / "cpu3/topology").mkdir(parents=True)
    (tmp_path / "cpu3/topology/thread_siblings_list").write_text("1,3\n")
    assert (siblings(3, tmp_path), siblings(4, tmp_path)) == ("1,3", "4")


def test_the_affinity_counts(monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0})
    assert threads.usable_cores() == 1


def test_nothing_is_set_once_torch_has_read_the_environment(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", sys)
    environment: dict[str, str] = {}
    threads.choose_threads(environment)
    assert environment == {}


def test_a_number_is_the_users_unless_align_chose_it():
    assert set_by_user({}) is None and set_by_user(ALL) is None
    assert set_by_user(ALL | {"OMP_NUM_THREADS": "1"}) == "OMP_NUM_THREADS"  # for a process started by `align`
    assert set_by_user({"MKL_NUM_THREADS": "4"}) == "MKL_NUM_THREADS"


@pytest.mark.parametrize(
    ("count", "environment", "text"),
    [
        (2, {}, "2 threads"),
        (4, ALL, "4 threads, which wait for each other by spinning briefly (GOMP_SPINCOUNT=1000)"),
        (1, ALL | {"OMP_NUM_THREADS": "1"}, "1 thread (OMP_NUM_THREADS=1)"),
        (
            2,
            {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},
            "2 threads (OMP_NUM_THREADS=2), which wait for each other as set (OMP_WAIT_POLICY=passive)",
        ),
    ],
)
def test_the_log_line(count, environment, text):
    assert describe_threads(count, environment) == text


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's torch is known to use libgomp")
def test_a_verb_chooses_before_anything_is_imported():
    code = """import os, sys, align
def stop():
    heavy = [name for name in ("torch", "numpy", "transformers") if name in sys.modules]
    print([os.environ[name] for name in ("GOMP_SPINCOUNT", "MKL_DYNAMIC", "OMP_NUM_THREADS")], heavy)
    sys.exit()
align.set_up_logging = stop
align.main(["chat"])"""
    environment = {"OMP_NUM_THREADS": "3", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == "['1000', 'FALSE', '3'] []\n", done.stderr

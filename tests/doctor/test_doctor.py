"""`align doctor`: what it finds in installations and machines of every kind, and its exit code."""

import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

import align
from alignment.doctor import examination, extras, graphics, processor, requirements
from alignment.doctor.advice import recommend
from alignment.doctor.examination import fact_lines
from alignment.doctor.facts import FAULT, NOTE, OK, Fact
from alignment.doctor.hugging_face import cache_fact, folder_size, hub_facts
from alignment.doctor.import_probe import gpu_facts
from alignment.doctor.requirements import Imports, import_packages, project_requirements, version_facts
from alignment.pipeline.recipes.packaged_recipes import find_recipe

ROOT = Path(__file__).parents[2]
SECRET = "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ012345"
CARD = {"name": "NVIDIA H200", "memory": 150_000_000_000, "free": 149_000_000_000, "capability": "9.0"}
ON_GPU = {"version": "2.13.0", "cuda": "12.8", "gpus": [CARD], "why_none": None}
CPU_BUILD = {"version": "2.13.0+cpu", "cuda": None, "gpus": [], "why_none": None}


def status_of(facts, name):
    return next(fact.status for fact in facts if fact.name == name)


# ---- Packages ----


def test_versions_are_compared_with_what_the_project_requires(monkeypatch):
    versions = {"torch": "2.13.0+cpu", "transformers": "5.22.0", "trl": "1.17.0", "datasets": "5.2.0", "scipy": "1.0"}
    monkeypatch.setattr(requirements, "installed_version", versions.get)
    required = ["torch>=2.8", "transformers>=5.23,<6", "trl>=1.16,<1.17", "datasets>=5.2", "peft>=0.21", "scipy>=1.14"]
    facts = list(version_facts(">=3.11", required, Imports(broken={"datasets": "ImportError: libarrow.so"})))
    found = {fact.name: (fact.status, fact.fix) for fact in facts}
    assert found == {
        "python": (OK, None),
        "torch": (OK, None),
        "transformers": (FAULT, "pip install 'transformers>=5.23,<6'"),
        "trl": (FAULT, "pip install 'trl>=1.16,<1.17'"),
        "datasets": (FAULT, "pip install --force-reinstall --no-deps 'datasets>=5.2'"),
        "peft": (FAULT, "pip install 'peft>=0.21'"),
        "scipy": (FAULT, "pip install 'scipy>=1.14'"),
        "others": (OK, None),
    }
    assert "missing (needs >=0.21)" in [fact.value for fact in facts]
    assert "cannot be imported: ImportError: libarrow.so" in [fact.effect for fact in facts]


def test_an_old_python_is_a_fault():
    assert status_of(version_facts(">=3.99", [], Imports()), "python") == FAULT


def test_the_requirements_are_those_of_the_checkout_or_of_the_installed_metadata(monkeypatch, tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project_requirements() == (project["requires-python"], project["dependencies"])
    folder = tmp_path / "alignment_pipeline-9.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", "Name: alignment-pipeline", "Version: 9", "Requires-Python: >=3.12"]
    lines += ["Requires-Dist: torch>=9", 'Requires-Dist: openai>=3; extra == "judge"']
    (folder / "METADATA").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("alignment.__file__", str(tmp_path / "site/alignment/__init__.py"))
    assert project_requirements() == (">=3.12", ["torch>=9"])


def test_packages_that_break_on_import_do_not_hide_the_others(monkeypatch, tmp_path):
    for name, code in {
        "fine_one": "print('noise')",
        "raises": "import sys\nraise OSError('libgomp.so.1: cannot open shared object file')",
        "crashes": "import os\nos.abort()",
        "last_one": "",
    }.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    found = import_packages(["fine-one", "raises", "crashes", "last-one"])
    assert found.broken == {
        "raises": "OSError: libgomp.so.1: cannot open shared object file",
        "crashes": "the process was ended by signal 6",
    }
    assert found.torch is None


def test_torchs_own_report_is_read(monkeypatch, tmp_path):
    fake = "from types import SimpleNamespace as N\n__version__ = '9.9'\nversion = N(cuda='12.8', hip=None)\n"
    fake += "def init(): raise RuntimeError('Found no NVIDIA driver on your system.\\nMore.')\n"
    (tmp_path / "torch.py").write_text(fake + "cuda = N(is_available=lambda: False, init=init)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert import_packages(["torch"]).torch == {
        "version": "9.9",
        "cuda": "12.8",
        "gpus": [],
        "why_none": "Found no NVIDIA driver on your system.",
    }


def test_the_doctor_works_without_any_other_package():
    """With -S Python has its standard library alone: whatever is required is missing."""
    command = [sys.executable, "-S", "-m", "align", "doctor", "--json"]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert done.returncode == 1 and not found["usable"]
    assert status_of_json(found, "packaging") == FAULT


def status_of_json(found, name):
    return next(fact["status"] for fact in found["facts"] if fact["name"] == name)


# ---- The machine ----


@pytest.mark.parametrize(
    ("torch", "card", "driver", "environment", "expected", "fix"),
    [
        (CPU_BUILD, False, False, {}, "none: torch 2.13.0+cpu is built for CPUs", None),
        (CPU_BUILD, True, True, {}, "not used: there is an NVIDIA card", "pip install --force-reinstall torch"),
        (
            ON_GPU | {"gpus": [], "why_none": "no driver"},
            True,
            False,
            {},
            "says: no driver",
            "install the NVIDIA driver",
        ),
        (ON_GPU | {"gpus": [], "why_none": "too old"}, True, True, {}, "says: too old", "update the NVIDIA driver"),
        (ON_GPU | {"gpus": [], "why_none": "no driver"}, False, False, {}, "says: no driver", None),
        (ON_GPU | {"gpus": []}, True, True, {"CUDA_VISIBLE_DEVICES": ""}, "hides them", "unset CUDA_VISIBLE_DEVICES"),
        (None, True, True, {}, "unknown", None),
    ],
)
def test_why_there_is_no_gpu(torch, card, driver, environment, expected, fix, monkeypatch, tmp_path):
    if card:
        (tmp_path / "pci/0000:01:00.0").mkdir(parents=True)
        (tmp_path / "pci/0000:01:00.0/vendor").write_text("0x10de\n")
        (tmp_path / "pci/0000:01:00.0/class").write_text("0x030200\n")
    if driver:
        (tmp_path / "driver").touch()
    monkeypatch.setattr(graphics, "PCI", tmp_path / "pci")
    monkeypatch.setattr(graphics, "DRIVER", tmp_path / "driver")
    for name in graphics.HIDING:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (fact,) = graphics.gpu_facts(torch)
    assert fact.status == NOTE and expected in fact.value
    assert fact.fix is None if fix is None else fact.fix.startswith(fix)


def test_gpus_are_listed_with_memory_and_capability():
    old = CARD | {"name": "Tesla T4", "capability": "7.5"}
    first, second = graphics.gpu_facts(ON_GPU | {"gpus": [CARD, old]})
    assert first.value == "NVIDIA H200, 149 GB free of 150 GB, compute capability 9.0" and first.status == OK
    assert second.status == NOTE and "no bf16" in second.effect
    (full,) = graphics.gpu_facts(ON_GPU | {"gpus": [CARD | {"free": None}]})
    assert "unknown what is free of 150 GB" in full.value


def test_torchs_report_of_a_gpu():
    def full(index):
        raise RuntimeError("CUDA error: out of memory")

    properties = SimpleNamespace(name="NVIDIA H200", total_memory=150, major=9, minor=0)
    cuda = SimpleNamespace(get_device_properties=lambda index: properties, mem_get_info=lambda index: (149, 150))
    assert gpu_facts(SimpleNamespace(cuda=cuda), 0) == CARD | {"memory": 150, "free": 149}
    cuda.mem_get_info = full
    assert gpu_facts(SimpleNamespace(cuda=cuda), 0)["free"] is None


@pytest.mark.parametrize(
    ("flags", "status", "named"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16", OK, "AVX2, AVX-512, AVX-512 BF16, AMX BF16"),
        ("flags\t\t: fpu avx2", NOTE, "AVX2"),
        ("Features\t: fp asimd bf16 sve", OK, "SVE, BF16"),
    ],
)
def test_the_processors_features(flags, status, named, monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: A CPU @ 2 GHz\n{flags}\n")
    monkeypatch.setattr(processor, "CPU_INFORMATION", tmp_path / "cpuinfo")
    facts = list(processor.processor_facts())
    assert facts[0].value == "A CPU @ 2 GHz"
    assert (facts[-1].status, facts[-1].value) == (status, named)


def test_cores_that_may_not_be_used_are_named(monkeypatch):
    monkeypatch.setattr(processor, "usable_cores", lambda: 0)
    monkeypatch.setattr(processor, "set_by_user", lambda: None)
    assert status_of(processor.processor_facts(), "cores") == NOTE


@pytest.mark.parametrize(("on_gpu", "needed"), [(False, "g++"), (True, "gcc")])
def test_a_missing_compiler_costs_torch_compile(on_gpu, needed, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    facts = {fact.name: fact for fact in processor.compiler_facts(on_gpu)}
    assert {fact.status for fact in facts.values()} == {NOTE}
    assert "no effect on a CPU" in facts["g++"].effect
    assert [name for name, fact in facts.items() if fact.fix] == [needed]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("env g++", "CXX=env g++ has arguments: torch takes one program"),
        ("", "CXX= is empty"),
        ("gone -O2", "CXX=gone -O2 does not exist"),
    ],
)
def test_a_compiler_that_torch_cannot_run_is_named_with_the_reason(value, found, monkeypatch):
    """torch._inductor.cpp_builder and triton.runtime.build run CXX and CC as one program's name."""
    monkeypatch.setenv("CXX", value)
    fact = next(fact for fact in processor.compiler_facts(False) if fact.name == "g++")
    assert (fact.status, fact.value, fact.fix) == (NOTE, found, "unset CXX")


@pytest.mark.parametrize("version", [1, 2])
def test_memory_is_that_of_the_control_group(version, tmp_path, monkeypatch):
    group = tmp_path / ("memory/job" if version == 1 else "job")
    group.mkdir(parents=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    for name, size in zip(names, (3_000_000_000, 2_000_000_000), strict=True):
        (group / name).write_text(f"{size}\n")
    prefix = "total_" if version == 1 else ""
    (group / "memory.stat").write_text(f"anon 5\n{prefix}inactive_file 500000000\n")
    line = "4:memory:/job" if version == 1 else "0::/job"
    assert processor.memory_limit(f"3:cpuset:/\n{line}", tmp_path) == (3_000_000_000, 1_500_000_000)
    monkeypatch.setattr(processor, "memory_limit", lambda *_: (3_000_000_000, 1_500_000_000))
    (fact,) = processor.memory_facts()
    assert fact.value == "1.5 GB free of 3 GB, by the limit of a control group" and fact.status == NOTE


def test_groups_without_a_limit_are_passed_over(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert processor.memory_limit("0::/\n4:memory:/elsewhere", tmp_path) is None


# ---- Hugging Face, extras ----


@pytest.mark.parametrize("place", ["variable", "file"])
def test_a_tokens_value_is_nowhere(place, tmp_path):
    environment = {"HF_HOME": str(tmp_path), **({"HF_TOKEN": SECRET} if place == "variable" else {})}
    if place == "file":
        (tmp_path / "token").write_text(SECRET)
    facts = list(hub_facts(environment))
    assert status_of(facts, "token") == OK
    assert SECRET not in repr(facts)


@pytest.mark.parametrize(("value", "status"), [("1", NOTE), ("true", NOTE), ("0", OK), ("", OK)])
def test_the_offline_state(value, status, tmp_path):
    facts = list(hub_facts({"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": value}))
    assert status_of(facts, "offline") == status
    assert status_of(facts, "token") == NOTE


def test_the_cache_is_measured_and_tried(tmp_path):
    (tmp_path / "cache/sub").mkdir(parents=True)
    (tmp_path / "cache/sub/weights").write_bytes(bytes(3000))
    (tmp_path / "cache/link").symlink_to(tmp_path / "cache/sub/weights")
    assert 3000 <= folder_size(tmp_path / "cache")[0] < 4000
    assert folder_size(tmp_path / "cache", seconds=-1)[1] is False
    assert cache_fact(tmp_path / "cache").status == OK
    (tmp_path / "file").touch()
    fact = cache_fact(tmp_path / "file")
    assert fact.status == NOTE and "not writable" in fact.value and "HF_HOME" in fact.fix


def test_fixes_name_extras_that_exist(monkeypatch):
    monkeypatch.setattr(extras, "installed_version", lambda _: None)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {extra.extra for extra in extras.EXTRAS} - {None} <= project["optional-dependencies"].keys()
    without, with_one = list(extras.extra_facts(on_gpu=False)), list(extras.extra_facts(on_gpu=True))
    assert {fact.name for fact in without if fact.fix} == {"tensorboard", "wandb", "trackio", "openai", "fastapi"}
    assert all(fact.fix for fact in with_one)
    assert "pip install 'alignment-pipeline[judge]'" in [fact.fix for fact in without]


# ---- The whole ----


@pytest.mark.parametrize(
    ("memory", "bitsandbytes", "recipe"),
    [
        ([], True, "tiny"),
        ([8e9], True, "tiny"),
        ([16e9], True, "lora-1gpu"),
        ([25e9], False, "lora-1gpu"),
        ([25e9], True, "qlora-1gpu"),
        ([25e9, 85e9], True, "lora-1gpu"),
    ],
)
def test_the_recipe_fits_the_machine_and_exists(memory, bitsandbytes, recipe, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = recommend(memory, bitsandbytes)
    assert found.recipe == recipe and found.command.startswith(f"align run recipes/{recipe}")
    assert (ROOT / "recipes" / recipe / "pipeline.yaml").is_file()


def test_the_recipe_is_named_as_it_is_found(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def found() -> str:
        [folder] = shlex.split(recommend([], False).command)[2:]
        assert (find_recipe(folder) / "pipeline.yaml").is_file()
        return folder

    assert found() == "tiny"
    (tmp_path / "recipes/tiny").mkdir(parents=True)
    assert found() == "tiny"
    (tmp_path / "tiny").mkdir()
    assert found() == str(ROOT / "recipes/tiny")
    (tmp_path / "recipes/tiny").rmdir()
    assert found() == "recipes/tiny"
    (tmp_path / "tiny/pipeline.yaml").write_text("stages: {}\n")
    assert found() == "tiny"


@pytest.fixture
def machine(monkeypatch):
    """The examination of this machine, without the imports."""
    monkeypatch.setattr(examination, "import_packages", lambda packages: Imports(torch=ON_GPU))


def test_the_screen_has_a_line_per_fact_and_the_recipe(machine, capsys):
    assert align.main(["doctor"]) == 0
    text = capsys.readouterr().out
    for part in ("  ok    torch", "NVIDIA H200", "recommended recipe: lora-1gpu", "next: align run", "is usable"):
        assert part in text
    assert len(text.splitlines()) < 60


def test_a_broken_package_is_a_fault_and_the_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(examination, "import_packages", lambda packages: Imports(broken={"peft": "ImportError: no"}))
    assert align.main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["usable"] and status_of_json(found, "peft") == FAULT
    assert found["recommended"]["recipe"] == "tiny"
    assert align.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "alignment-pipeline is not usable: see peft" in text and "next:" not in text


def test_long_lines_are_wrapped_under_their_value():
    fact = Fact("GPU", "GPU", "none: " + "word " * 30, NOTE, "an effect", "a fix")
    lines = fact_lines(fact, 70)
    assert len(lines) > 3 and max(map(len, lines)) <= 70
    assert all(line.startswith(examination.INDENT) for line in lines[1:])
    assert len(fact_lines(fact)) == 2


@pytest.mark.slow
def test_this_installation_is_usable():
    command = [sys.executable, "-m", "align", "doctor", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["usable"], done.stdout
    assert (ROOT / "recipes" / found["recommended"]["recipe"]).is_dir()

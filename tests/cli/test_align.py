"""The console script: fast help, exit codes, and no traceback for user errors."""

import io
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import align

ALIGN = Path(sys.executable).parent / "align"


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([ALIGN, *arguments], capture_output=True, text=True, cwd=cwd, timeout=300)


def test_help_names_every_verb():
    done = run("--help")
    assert done.returncode == 0
    assert all(f"\n  {verb} " in done.stdout for verb in align.VERBS)


def test_help_is_fast():
    times = []
    for _ in range(3):
        started = time.perf_counter()
        run("--help")
        times.append(time.perf_counter() - started)
    assert statistics.median(times) < 0.5


def test_an_empty_cache_variable_is_as_good_as_unset(monkeypatch, tmp_path):
    """huggingface_hub would take the empty text for the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("HF_HOME", ""), ("HF_HUB_CACHE", ""), ("HF_DATASETS_CACHE", "elsewhere")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        align.main(["info", "--help"])
    assert not {"HF_HOME", "HF_HUB_CACHE"} & os.environ.keys() and os.environ["HF_DATASETS_CACHE"] == "elsewhere"


def test_lines_of_both_streams_are_in_order_in_one_file(monkeypatch, tmp_path):
    """As in `align run ... > log 2>&1`: what a verb prints is not held back behind its log."""
    with (tmp_path / "log").open("wb") as log:
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(log, encoding="utf-8", line_buffering=name == "stderr"))
        align.open_streams()
        print("the plan")
        print("the progress", file=sys.stderr)
        print("the end")
        assert (tmp_path / "log").read_text().splitlines() == ["the plan", "the progress", "the end"]


def test_help_imports_nothing_heavy():
    code = "import sys, align; align.main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert "align" in loaded
    assert not loaded & {"eval", "reward_models", "torch", "transformers", "trl", "numpy", "yaml"}


def test_an_unknown_verb_names_the_nearest():
    done = run("pretain")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "align: no verb 'pretain': did you mean `align pretrain`?\n"
    assert "align --help" in run("zzz").stderr


def test_no_verb_shows_the_help():
    assert run().stdout == run("--help").stdout


@pytest.mark.parametrize("verb", align.VERBS)
def test_every_verb_has_help(verb, capsys):
    """In this process, so that the libraries are imported once."""
    with pytest.raises(SystemExit) as stopped:
        align.main([verb, "--help"])
    assert stopped.value.code == 0
    assert f"usage: align {verb}" in capsys.readouterr().out


def test_the_stage_verbs_are_the_stages():
    from alignment.stages import STAGES

    verbs = {verb: text for verb, (module, text) in align.VERBS.items() if module == align.STAGE}
    assert verbs == {name: stage.help for name, stage in STAGES.items() if name != "sample"}
    assert align.VERBS["sample"][0] != align.STAGE == align.module_of("sample", ["tiny/sample.yaml", "--seed", "1"])
    assert align.module_of("sample", ["runs/tiny/sft/checkpoint"]) == align.VERBS["sample"][0]


def test_a_user_error_has_no_traceback_and_exits_2(tmp_path):
    (tmp_path / "sft.yaml").write_text("learning_rat: 1e-3\nmax_steps: many\nmodel_name_or_path: org/model\n")
    done = run("sft", "sft.yaml", "--debugging_steps", "1", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "unknown key 'learning_rat'" in done.stderr and "did you mean 'learning_rate'?" in done.stderr
    assert "unknown key 'debugging_steps'" in done.stderr
    assert "got:      'many' (text)" in done.stderr and "expected: a whole number" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sft.yaml"]


def test_debug_shows_the_traceback(tmp_path):
    for arguments in (["run", "nowhere", "--debug"], ["--debug", "run", "nowhere"]):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert "Traceback" in done.stderr and "nowhere is not a recipe folder" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "nowhere"], "nowhere is not a recipe folder"),
        (["sft", "nowhere.yaml"], "no recipe at nowhere.yaml"),
        (["chat", "runs/nowhere/checkpoint"], "no such folder"),
        (["chat", "org/model", "--temperature", "-1"], "--temperature is out of range"),
    ],
)
def test_mistakes_in_process(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert align.main(arguments) == 2
    assert says in capsys.readouterr().err


def test_an_unexpected_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(align.VERBS, "chat", ("no_such_module", ""))
    with pytest.raises(ModuleNotFoundError):
        align.main(["chat"])


def test_SIGTERM_ends_a_verb_as_ctrl_c_does(monkeypatch, capsys):
    from alignment.cli.inspect import chat

    before, cleaned = signal.getsignal(signal.SIGTERM), []

    def asked_to_end(args):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleaned.append(True)

    monkeypatch.setattr(chat, "main", asked_to_end)
    assert align.main(["chat", "somewhere"]) == 143
    assert capsys.readouterr().err == "align chat: interrupted\n" and cleaned
    assert signal.getsignal(signal.SIGTERM) == before


def test_workers_forked_from_a_verb_end_on_SIGTERM_silently(monkeypatch, capfd):
    from alignment.cli.inspect import chat

    def forks(args):
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    monkeypatch.setattr(chat, "main", forks)
    assert align.main(["chat", "somewhere"]) == -signal.SIGTERM
    assert capfd.readouterr().err == ""


def test_an_interrupt_is_one_line(monkeypatch, capsys):
    from alignment.cli.inspect import chat

    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(chat, "main", interrupted)
    assert align.main(["chat", "ckpt"]) == 130
    assert capsys.readouterr().err == "align chat: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "own", "overrides"),
    [
        (["dir", "--fresh", "--sft.lr", "1e-3"], ["dir", "--fresh"], ["--sft.lr", "1e-3"]),
        (["--sft.lr", "-1", "dir"], ["dir"], ["--sft.lr", "-1"]),
        (["dir", "--sft.flag", "--until", "sft"], ["dir", "--until", "sft"], ["--sft.flag"]),
        (["dir", "--sft.lr=2", "--until=sft"], ["dir", "--until=sft"], ["--sft.lr=2"]),
    ],
)
def test_overrides_are_separated_from_a_verbs_own_arguments(arguments, own, overrides):
    assert align.split_overrides(arguments, {"--fresh", "--until"}) == (own, overrides)


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-"])
def test_a_closed_stream_changes_no_exit_code(closed):
    for words, code in (("recipe sft learning_rate", 0), ("recipe nope", 2), ("sfft", 2)):
        assert subprocess.run(["bash", "-c", f'"{ALIGN}" {words} {closed}'], timeout=300).returncode == code


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_error(unbuffered):
    """As after `align recipe sft --all | head -1`: the exit code is that of SIGPIPE, and nothing else is printed."""
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    for words in ("--help", "recipe sft --all"):
        script = f'set -o pipefail; "{ALIGN}" {words} | true'
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=300)
        assert (done.returncode in (0, 141), done.stderr) == (True, "")


def test_a_deleted_working_folder_is_a_user_error(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert align.main(["check", "tiny"]) == 2
    assert "the working folder does not exist" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)

"""Runs that are stopped before they begin, as a stage does not fit the memory."""

import align as console
from alignment.check import run as check_run
from alignment.estimate import compute
from alignment.estimate.compute import Device


def test_a_stage_that_cannot_fit_is_stopped_unless_it_is_not_checked(case, capsys, monkeypatch):
    small = Device("a small machine", 10**8)
    for module in (compute, check_run):
        monkeypatch.setattr(module, "this_device", lambda measure=True: small)
    code, printed = case.check(capsys)
    assert code == 1 and "error: sft: the model does not fit the memory" in printed
    stage = ["sft", str(case.write()), "--output_dir", str(case.folder / "runs/sft"), "--dry-run"]
    assert console.main(stage) == 2
    assert "a machine with at least" in capsys.readouterr().err
    assert console.main([*stage, "--no-check"]) == 0
    assert not (case.folder / "runs").exists()

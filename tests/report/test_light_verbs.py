"""Verbs that load no model import no library that does: they answer within a second or two."""

import json
import subprocess
import sys
from pathlib import Path

import align
from alignment.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
RUN_EACH = """
import contextlib, io, json, sys
import align
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            code = align.main(arguments)
        except SystemExit as stopped:
            code = stopped.code
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "lm_eval"} & set(sys.modules)
    print(json.dumps([arguments, code, sorted(heavy), said.getvalue()]))
"""


def test_verbs_without_a_model_import_none_of_the_libraries_of_models(make_run, tmp_path):
    run, other = (
        make_run(tmp_path / "run"),
        make_run(tmp_path / "other", ("tokenizer", "pretrain"), ("pretrain",), items=2),
    )
    (tmp_path / "sft.yaml").write_text("model_name_or_path: org/model\ndataset_name: nowhere.jsonl\n")
    recipe = str(tmp_path / "sft.yaml")
    expected = [
        # The help of `export` lists targets that only the converter knows, which imports the models.
        *((verb, ["--help"], 0) for verb in align.VERBS if verb != "export"),
        ("run", ["nowhere"], 2),
        ("run", ["recipes/tiny", "--sft.learning_rat", "1"], 2),
        ("run", ["recipes/tiny", "--sft.learning_rate", "fast"], 2),
        ("run", ["recipes/tiny", "--dpo.dataset_name", "nowhere.jsonl"], 2),
        ("run", ["recipes/tiny", "--evals.headline", "[1]"], 2),
        ("sft", ["nowhere.yaml"], 2),
        ("sft", [recipe], 2),
        *((stage, [f"recipes/tiny/{stage}.yaml", "--learning_rat", "1"], 2) for stage in ("tokenizer", "pretrain")),
        *((stage, [recipe, "--learning_rat", "1"], 2) for stage in STAGES),
        ("check", ["nowhere"], 2),
        ("check", [recipe, "--learning_rat", "1"], 1),
        ("compare", [str(run / "evals" / f"{stage}-tinyworld-chat") for stage in ("sft", "dpo", "ppo")], 0),
        ("compare", [str(run / stage / "checkpoint") for stage in ("sft", "dpo")], 0),
        ("compare", ["nowhere", "nowhere"], 2),
        ("report", [str(run)], 0),
        ("report", [str(run), str(other)], 0),
        ("watch", [str(run), "--once"], 0),
        ("info", [str(run)], 0),
    ]
    commands = [[verb, *arguments] for verb, arguments, _ in expected]
    ran = subprocess.run(
        [sys.executable, "-c", RUN_EACH, json.dumps(commands)], capture_output=True, text=True, cwd=ROOT
    )
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [(arguments, heavy) for arguments, _, heavy, _ in found] == [(arguments, []) for arguments in commands]
    assert [(*arguments, code) for arguments, code, *_ in found] == [
        (verb, *arguments, code) for verb, arguments, code in expected
    ], found

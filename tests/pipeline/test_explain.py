"""Explanations of recipe keys: type, default, owner and help."""

import ast
import resource
import subprocess
import sys

import pytest

import align
from alignment.errors import UserError
from alignment.pipeline import evals
from alignment.pipeline.recipes import key_table
from alignment.pipeline.recipes.explain import EVALS_HELP, PIPELINE_HELP, SUBJECTS, explain_key, keys_for, list_keys
from alignment.pipeline.recipes.keys import OWNERS, Key, Keys
from alignment.pipeline.recipes.pipeline_file import KEYS
from alignment.stages import STAGES


def test_every_key_has_type_owner_and_help():
    for subject in SUBJECTS:
        for key in keys_for(subject).fields:
            assert key.owner in OWNERS and key.set_by in {"", *OWNERS}, key
            assert key.help and "\t" not in key.help and "%%" not in key.help, key
            assert key.required or key.default or subject in ("evals", "pipeline"), key


@pytest.mark.parametrize(
    ("subject", "name", "says"),
    [
        ("sft", "learning_rate", ["a number", "2e-05, set by TRL", "transformers", "learning rate"]),
        ("sft", "learning_rate", ["drafted: 0.0002 in `align sft --lora`, without a recipe"]),
        ("dpo", "learning_rate", ["drafted: 2e-05 in `align dpo --lora`, without a recipe"]),
        ("pretrain", "learning_rate", ["0.0006, set by this project", "owner:   transformers"]),
        ("sft", "packing", ["true or false", "default: false", "owner:   TRL"]),
        ("dpo", "lora_r", ["16", "owner:   PEFT"]),
        ("dpo", "deduplicate", ["one of none, exact, near", "owner:   this project"]),
        ("dpo", "model_name_or_path", ["names a stage, or the path or hub id of a causal-lm checkpoint"]),
        ("tokenizer", "output_dir", ["none: the recipe has to set it"]),
        ("ppo", "value-learning-rate", ["value_learning_rate"]),
        ("evals", "limit", ["a whole number, or null", "Items per task"]),
        ("evals", "headline", ["a mapping", "not set"]),
        ("pipeline", "inputs", ["a mapping", "`${NAME}` in a recipe"]),
    ],
)
def test_a_key_is_explained(subject, name, says):
    text = explain_key(subject, name)
    assert text.startswith(f"{subject}: {name.replace('-', '_')}\n") and max(map(len, text.splitlines())) <= 120
    assert all(part in text for part in says), text


@pytest.mark.parametrize(
    ("subject", "name", "fix"),
    [
        ("sft", "learning_rat", "did you mean 'learning_rate'?"),
        ("sft", "LEARNING_RATE", "did you mean 'learning_rate'?"),
        ("ppo", "kl_coef", "what it did: beta"),
        ("sft", "beta", "dpo, kto, ppo, grpo have it: align recipe dpo beta"),
        ("sft", "suites", "evals has it: align recipe evals suites"),
        ("sft", "zzz", "`align recipe sft --all` lists the keys"),
    ],
)
def test_an_unknown_key_names_the_nearest(subject, name, fix):
    with pytest.raises(UserError, match=f"{subject} has no key '{name}'") as caught:
        explain_key(subject, name)
    assert caught.value.fix == fix


def test_capital_letters_do_not_hide_a_stage():
    with pytest.raises(UserError) as caught:
        list_keys("SFT")
    assert caught.value.fix == "did you mean 'sft'?"


def test_keys_are_listed_by_owner_with_ours_first():
    short, long = list_keys("sft"), list_keys("sft", all=True)
    for text in (short, long):
        heads = [line for line in text.splitlines() if line.endswith(" keys):")]
        assert [head.rpartition(" (")[0] for head in heads] == list(OWNERS.values())
        assert max(map(len, text.splitlines())) <= 120
    assert "\n  replay_ratio  " in short and "\n  learning_rate  " not in short and " learning_rate," in short
    assert long.count("\n  ") == len(keys_for("sft").names)


def test_the_keys_are_those_that_are_read():
    assert set(PIPELINE_HELP) == set(KEYS) and set(EVALS_HELP) == set(evals.OWN_KEYS)
    assert keys_for("evals").names == {*evals.OWN_KEYS, *evals.Harness().options()}
    assert set(SUBJECTS) == {*STAGES, "evals", "pipeline"}


def test_other_versions_of_the_libraries_are_asked(monkeypatch):
    monkeypatch.setattr(key_table, "read", lambda _: None)
    monkeypatch.setattr(key_table, "made", lambda stage: Keys((Key("new", int, owner="trl", help=f"Of {stage}."),)))
    assert explain_key("sft", "new").endswith("owner:   TRL\n\n  Of sft.")


def test_the_verb(capsys):
    assert align.main(["recipe", "sft", "packing"]) == 0
    assert capsys.readouterr().out.startswith("sft: packing\n")
    assert align.main(["recipe", "sft"]) == 0
    assert capsys.readouterr().out.endswith("align recipe sft KEY explains a key; --all describes all keys\n")
    assert align.main(["recipe"]) == 2
    assert "one of tokenizer, pretrain, sft, " in capsys.readouterr().err
    assert align.main(["recipe", "stf"]) == 2
    assert "did you mean 'sft'?" in capsys.readouterr().err


def test_the_answer_needs_no_library_that_trains():
    code = "import sys, align; align.main(['recipe', 'sft', 'lora_r']); print(sorted(sys.modules))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1
    loaded = {name.partition(".")[0] for name in ast.literal_eval(done.stdout.splitlines()[-1])}
    assert "align" in loaded and not loaded & {"torch", "transformers", "trl", "peft", "datasets", "numpy"}

"""Options and recipe keys are spelled with hyphens or underscores; a misspelt one names the nearest."""

import importlib
from pathlib import Path

import pytest

import align
from alignment.errors import UserError
from alignment.pipeline.recipes.keys import Keys
from alignment.pipeline.recipes.overrides import NAMED_BY_DATA, apply_overrides, parse_overrides


def parsed(verb: str, *arguments: str):
    return align.parse(verb, importlib.import_module(align.VERBS[verb][0]), list(arguments))


@pytest.mark.parametrize("verb", align.VERBS)
def test_no_two_options_of_a_verb_differ_only_in_hyphens(verb):
    options = align.options_of(align.make_parser(verb, importlib.import_module(align.VERBS[verb][0])))
    assert len({option.replace("_", "-") for option in options}) == len(options)


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["--max_time", "2h"], "max_time", "2h"),
        (["--max-time=2h"], "max_time", "2h"),
        (["--output-dir", "a-b_c"], "output_dir", "a-b_c"),
        (["--output-dir=a-b_c"], "output_dir", "a-b_c"),
        (["--dry_run"], "dry_run", True),
    ],
)
def test_options_are_alike_in_either_spelling(arguments, key, value):
    args = parsed("sft", "tiny/sft.yaml", *arguments)
    assert getattr(args, key) == value and args.overrides == [] and args.recipe == "tiny/sft.yaml"


def test_values_are_left_as_they_are():
    args = parsed("chat", "ckpt", "--prompt=--max-time and a_b", "--max-new_tokens", "5")
    assert (args.prompt, args.max_new_tokens) == ("--max-time and a_b", 5)
    assert align.spelled(["--a_b", "--", "--a_b"], ["--a-b"]) == ["--a-b", "--", "--a_b"]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--learning-rate", "1e-3"], {"learning_rate": 0.001}),
        (["--sft.learning-rate=1e-3", "--bf16"], {"sft.learning_rate": 0.001, "bf16": True}),
        (["--sft.model-config.num-hidden-layers", "-6"], {"sft.model_config.num_hidden_layers": -6}),
        (["--evals.suite-args.split", "a-b"], {"evals.suite_args.split": "a-b"}),
        # names in data and suites keep their hyphens
        (["--sft.columns.my-column", "prompt"], {"sft.columns.my-column": "prompt"}),
        (["--evals.headline.my-suite", "all"], {"evals.headline.my-suite": "all"}),
        # one key in two spellings: the last counts, as for one spelling
        (["--learning-rate", "1", "--learning_rate", "2"], {"learning_rate": 2}),
        (["--learning_rate", "1", "--learning-rate", "2"], {"learning_rate": 2}),
    ],
)
def test_recipe_keys_are_alike_in_either_spelling(arguments, found):
    assert parse_overrides(arguments) == found


def test_the_option_of_a_verb_comes_before_the_recipe_key_of_that_name():
    args = parsed("run", "tiny", "--max-truncated", "0.5", "--sft.max-truncated", "0.1")
    assert args.max_truncated == 0.5 and args.overrides == ["--sft.max-truncated", "0.1"]


def test_nested_keys_are_set_in_either_spelling():
    recipe = {"model_config": {"hidden_size": 1}}
    assert apply_overrides(recipe, ["--model-config.hidden-size", "2"]) == {"model_config": {"hidden_size": 2}}


def test_mappings_named_by_data_are_all_keys():
    from alignment.pipeline.recipes.explain import SUBJECTS, keys_for

    known: list[Keys] = [keys_for(subject) for subject in SUBJECTS]
    hints = {key.name: str(key.hint) for keys in known for key in keys.fields}
    assert set(hints) >= NAMED_BY_DATA
    assert {name for name, hint in hints.items() if "dict[str, str]" in hint} - NAMED_BY_DATA == {"inputs", "stages"}


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "a", "b", "--formt", "chat"], ["no option --formt", "did you mean '--format'?"]),
        (["info", "a", "--jsn", "--zzzz=1"], ["no option --jsn", "no option --zzzz", "`align info --help` lists"]),
        (["run", "tiny", "--fersh"], ["no option --fersh", "did you mean the option --fresh?"]),
        (["run", "tiny", "--max-tim", "2h"], ["no option --max-tim", "did you mean the option --max-time?"]),
        (["run", "tiny", "--learning_rate", "1"], ["put the stage's name before the key: --STAGE.learning_rate"]),
        (["run", "tiny", "--stf.beta", "1"], ["did you mean 'sft'?"]),
        (["sft", "tiny/sft.yaml", "--fersh"], ["no option --fersh", "did you mean the option --fresh?"]),
        (["sft", "tiny/sft.yaml", "--learning-rat", "1"], ["unknown key 'learning_rat'", "mean 'learning_rate'?"]),
        (["check", "tiny/stf.yaml"], ["no recipe at", "did you mean tiny/sft.yaml?"]),
        (["check", "tiny", "--sft.epochs", "3", "--stge", "sft"], ["did you mean the option --stage?"]),
    ],
)
def test_a_misspelt_option_names_the_nearest(in_empty_folder, capsys, arguments, says):
    assert align.main(arguments) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in says), said


def test_a_misspelt_option_of_check_is_a_finding(in_empty_folder, capsys):
    assert align.main(["check", "tiny/sft.yaml", "--smaples", "3"]) == 1
    assert "no option --smaples" in (said := capsys.readouterr().out) and "the option --samples?" in said


def test_a_key_of_the_recipes_file_is_no_misspelt_option(in_empty_folder, capsys):
    (in_empty_folder / "sft.yaml").write_text("model_name_or_path: a/b\nsampls: 3\n")
    assert align.main(["check", "sft.yaml", "--warmup-step", "1"]) == 1
    said = capsys.readouterr().out
    assert "unknown key 'sampls'" in said and "the option" not in said and "'warmup_steps'" in said


def test_debug_shows_the_traceback_of_a_misspelt_option():
    with pytest.raises(UserError, match="no option --formt"):
        align.main(["compare", "a", "b", "--formt", "chat", "--debug"])

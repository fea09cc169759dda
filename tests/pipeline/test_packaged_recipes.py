"""Packaged recipes are found by name in any folder; a path that exists is what it says."""

import logging
import shutil
from pathlib import Path

import pytest

from alignment.errors import UserError
from alignment.pipeline import graph
from alignment.pipeline.graph import load_pipeline, load_stage
from alignment.pipeline.recipes import packaged_recipes
from alignment.pipeline.recipes.packaged_recipes import find_recipe, listing, locate_recipe, packaged, short_name
from alignment.pipeline.recipes.pipeline_file import read_settings, stage_files
from alignment.pipeline.recipes.recipe import read_recipe
from alignment.pipeline.records.digest import data_digests, digest_recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """The packaged recipes where a wheel has them."""
    place = tmp_path / "site-packages/alignment"
    shutil.copytree(ROOT / "recipes", place / "recipes")
    monkeypatch.setattr(packaged_recipes, "PACKAGE", place)
    return place / "recipes"


def test_names_are_found_in_a_checkout(elsewhere):
    assert set(packaged()) == {path.parent.name for path in ROOT.glob("recipes/*/pipeline.yaml")}
    for given, found in {"tiny": "tiny", "recipes/tiny": "tiny", "tiny/sft.yaml": "tiny/sft.yaml"}.items():
        assert find_recipe(given) == ROOT / "recipes" / found
    assert find_recipe("nowhere/sft.yaml") == Path("nowhere/sft.yaml") and find_recipe("") == Path()


def test_names_are_found_in_a_wheel(elsewhere, wheel):
    assert find_recipe("tiny/sft.yaml") == wheel / "tiny/sft.yaml"


def test_below_the_working_directory_paths_are_relative(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert find_recipe("tiny") == Path("recipes/tiny") == find_recipe("recipes/tiny")


def test_a_folder_that_exists_wins(elsewhere):
    (elsewhere / "tiny").mkdir()
    assert find_recipe("tiny/sft.yaml") == Path("tiny/sft.yaml")
    with pytest.raises(UserError, match=r"no recipe at tiny/sft\.yaml"):
        load_stage("sft", "tiny/sft.yaml")
    with pytest.raises(UserError, match=r"no pipeline\.yaml(?s:.*)or write recipes/tiny"):
        load_pipeline("tiny")
    assert find_recipe("recipes/tiny") == ROOT / "recipes/tiny"
    assert short_name(ROOT / "recipes/tiny") == str(ROOT / "recipes/tiny")  # `tiny` would be the other


def test_the_log_says_which_recipe_is_used(elsewhere, caplog):
    with caplog.at_level(logging.INFO, "alignment"):
        locate_recipe("tiny")
        locate_recipe(ROOT / "recipes/tiny")
    assert caplog.messages == [f"tiny: the packaged recipe {ROOT / 'recipes/tiny'}"]


@pytest.mark.parametrize("name", packaged())
def test_the_same_stages_are_run_by_name_and_by_path(elsewhere, wheel, name):
    """So that the second run finds the stages of the first up to date."""
    folders = [find_recipe(name), ROOT / "recipes" / name]
    settings = [read_settings(folder) for folder in folders]
    assert settings[0] == settings[1] and settings[0].name == name
    files = [stage_files(*pair) for pair in zip(settings, folders, strict=True)]
    for stage in settings[0].stages:
        first, second = (read_recipe(listed[stage]) for listed in files)
        for key in {"chat_template_path", "principles"} & first.keys():  # packaged files: their path is in the recipe
            first, second = (recipe | {key: None} for recipe in (first, second))
        assert first == second
        if name == "tiny":
            assert digest_recipe(first, data_digests(first)) == digest_recipe(second, data_digests(second))


def test_a_stage_of_a_packaged_recipe_is_written_below_the_working_directory(elsewhere, wheel, monkeypatch):
    monkeypatch.setattr(graph, "mistakes_in_values", lambda *_, **__: [])  # whose imports take seconds
    pipeline = load_stage("tokenizer", "tiny/tokenizer.yaml")
    assert (pipeline.run_dir, pipeline.recipe_dir) == (Path("runs/tiny"), wheel / "tiny")
    assert short_name(pipeline.stages[0].recipe_path) == "tiny/tokenizer.yaml"
    with pytest.raises(UserError, match=r"fix: +align pretrain tiny/pretrain\.yaml"):
        load_stage("sft", "tiny/sft.yaml")


def test_own_recipes_extend_and_list_packaged_ones_by_name(elsewhere, wheel):
    (elsewhere / "mine").mkdir()
    (elsewhere / "mine/sft.yaml").write_text("extends: tiny/sft.yaml\nmax_steps: 7\n")
    (elsewhere / "mine/pipeline.yaml").write_text("stages: {tokenizer: tiny/tokenizer.yaml, sft: sft.yaml}\n")
    assert read_recipe("mine/sft.yaml") == read_recipe(wheel / "tiny/sft.yaml") | {"max_steps": 7}
    files = stage_files(read_settings(Path("mine")), Path("mine"))
    assert files == {"tokenizer": wheel / "tiny/tokenizer.yaml", "sft": Path("mine/sft.yaml")}
    (elsewhere / "mine/tiny").mkdir()  # now `tiny` is a folder of this recipe
    with pytest.raises(UserError, match=r"no recipe at mine/tiny/sft\.yaml"):
        read_recipe("mine/sft.yaml")


def test_files_next_to_a_recipe_are_found_from_any_folder(elsewhere, wheel):
    recipe = read_recipe(find_recipe("tldr-pythia-1b/sft.yaml"))
    assert recipe["chat_template_path"] == f"{wheel}/tldr-pythia-1b/template.jinja"
    (elsewhere / "sub").mkdir()
    (elsewhere / "sub/base.yaml").write_text("a: ${recipe_dir}/x\nb: ${other}\n")
    (elsewhere / "child.yaml").write_text("extends: sub/base.yaml\nc: ${recipe_dir}/y\n")
    assert read_recipe("child.yaml", {"other": 3}) == {"a": "sub/x", "b": 3, "c": "./y"}


def test_a_recipe_is_the_same_by_its_relative_and_its_absolute_path(elsewhere, monkeypatch):
    """Otherwise the files that belong to a recipe would count as changed, and its stages would run again."""
    (elsewhere / "mine").mkdir()
    recipe = elsewhere / "mine/sft.yaml"
    recipe.write_text("a: ${recipe_dir}/x\nb: ${recipe_dir}\n")
    assert read_recipe("mine/sft.yaml") == read_recipe(recipe) == {"a": "mine/x", "b": "mine"}
    monkeypatch.chdir(elsewhere / "mine")
    assert read_recipe("sft.yaml") == read_recipe(recipe) == {"a": "./x", "b": "."}
    (elsewhere / "other").mkdir()
    monkeypatch.chdir(elsewhere / "other")
    assert read_recipe("../mine/sft.yaml")["b"] == "../mine" and read_recipe(recipe)["b"] == str(recipe.parent)


def test_the_name_of_the_folder_is_no_input(elsewhere):
    (elsewhere / "pipeline.yaml").write_text("stages: {}\ninputs: {recipe_dir: mine}\n")
    with pytest.raises(UserError, match="no input can have the name recipe_dir"):
        read_settings(Path())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("tniy", "did you mean tiny?"),
        ("recipes/tiny-lra", "did you mean tiny-lora?"),
        ("my/ownn", "did you mean my/own?"),
        ("zzz", "align init --list"),
    ],
)
def test_an_unknown_folder_names_the_nearest_and_lists_recipes(elsewhere, given, says):
    (elsewhere / "my").mkdir()
    for folder in ("recipes/own", "mine"):
        (elsewhere / folder).mkdir(parents=True)
        (elsewhere / folder / "pipeline.yaml").write_text("stages: {}\n")
    given, says = given.replace("my/", "recipes/"), says.replace("my/", "recipes/")
    with pytest.raises(UserError, match="is not a recipe folder") as caught:
        load_pipeline(given)
    assert says in caught.value.fix
    assert "such as mine, recipes/own; or a packaged recipe: constitutional, " in caught.value.expected


@pytest.mark.parametrize(
    ("given", "says"), [("tniy/sft.yaml", "tiny/sft.yaml"), ("tiny/stf.yaml", "tiny/sft.yaml"), ("a/b.yaml", None)]
)
def test_an_unknown_file_names_the_nearest(elsewhere, given, says):
    with pytest.raises(UserError) as caught:
        load_stage("sft", given)
    assert caught.value.fix == (f"did you mean {says}?" if says else "check the path")


def test_recipes_are_listed_with_a_line_each():
    lines = listing().splitlines()
    assert len(lines) == len(packaged()) and max(map(len, lines)) <= 120
    assert "tiny                 From random weights to an aligned model on two CPU cores, without a download" in lines


def test_no_hint_names_what_a_local_folder_hides(elsewhere):
    (elsewhere / "tiny").mkdir()
    with pytest.raises(UserError, match=r"did you mean recipes/tiny/sft\.yaml\?"):
        load_stage("sft", "tiny/sft.yaml")
    with pytest.raises(UserError, match=r"did you mean recipes/tiny\?"):
        load_pipeline("tniy")
    (elsewhere / "recipes/tiny").mkdir(parents=True)
    for given in ("tiny", "recipes/tiny"):
        with pytest.raises(UserError) as caught:
            load_pipeline(given)
        assert caught.value.fix == f"rename {given}, if you mean the packaged recipe"
    with pytest.raises(UserError) as caught:
        load_stage("sft", "tiny/sft.yaml")
    assert caught.value.fix == "check the path"
    (elsewhere / "tiny").rmdir()
    with pytest.raises(UserError, match="or write tiny"):
        load_pipeline("recipes/tiny")


def test_a_broken_link_is_not_suggested_for_itself(elsewhere):
    (elsewhere / "zzzzzz.yaml").symlink_to("gone.yaml")
    with pytest.raises(UserError) as caught:
        load_stage("sft", "zzzzzz.yaml")
    assert caught.value.fix == "check the path"


def test_hints_are_quoted(elsewhere):
    (elsewhere / "sp x").mkdir()
    for file in ("sft.yaml", "pipeline.yaml"):
        (elsewhere / "sp x" / file).write_text("stages: {}\n")
    with pytest.raises(UserError) as caught:
        load_pipeline("sp x/sft.yaml")
    assert caught.value.fix == "`align STAGE 'sp x/sft.yaml'` runs one stage, `align run 'sp x'` all stages"
    with pytest.raises(UserError) as caught:
        load_stage("sft", "sp x/stf.yaml")
    assert caught.value.fix == "did you mean 'sp x/sft.yaml'?"
    with pytest.raises(UserError) as caught:
        load_pipeline("sp y")
    assert caught.value.fix == "did you mean 'sp x'?"


def test_a_file_in_place_of_a_folder_gets_what_runs_it(elsewhere):
    with pytest.raises(UserError, match=r"fix: +give its folder: tiny$"):
        load_pipeline("tiny/pipeline.yaml")
    (elsewhere / "own.yaml").write_text("")
    with pytest.raises(UserError, match=r"fix: +`align STAGE own\.yaml` runs one stage$"):
        load_pipeline("own.yaml")
    (elsewhere / "tiny").write_text("")
    with pytest.raises(UserError, match=r"a file(?s:.*)rename tiny(?s:.*) or write recipes/tiny$"):
        load_pipeline("tiny")


def test_a_stages_file_is_no_folder(elsewhere):
    with pytest.raises(UserError, match=r"a file(?s:.*)`align STAGE tiny/sft.yaml` runs one stage, `align run tiny`"):
        load_pipeline("tiny/sft.yaml")

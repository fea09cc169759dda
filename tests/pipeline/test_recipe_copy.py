"""A copy of a packaged recipe folder: the same recipes, complete, with comments and commands of the new folder."""

import errno
import os
import shlex
from pathlib import Path

import pytest

import align
from alignment.errors import UserError
from alignment.pipeline.recipes import recipe_copy
from alignment.pipeline.recipes.packaged_recipes import packaged
from alignment.pipeline.recipes.pipeline_file import read_settings, stage_files
from alignment.pipeline.recipes.recipe import read_recipe
from alignment.pipeline.recipes.recipe_copy import copy_recipe, flattened, next_commands, renamed

PRINCIPLES = {"principles.yaml", "harm.yaml"}  # lists, no recipes


@pytest.fixture(autouse=True)
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", packaged())
def test_a_copy_has_the_recipes_of_the_original(name):
    source, target = packaged()[name], Path("sub/my-model")
    copy_recipe(name, target)
    old, new = read_settings(source), read_settings(target)
    assert (new.name, new.seed, new.inputs, new.evals) == ("my-model", old.seed, old.inputs, old.evals)
    files, copies = stage_files(old, source), stage_files(new, target)
    assert list(files) == list(copies)
    assert all(file.parent == target for file in copies.values())
    for name in PRINCIPLES & {file.name for file in source.iterdir()}:
        assert (target / name).read_text() == (source / name).read_text()
    named = [file for file in source.glob("*.yaml") if file.name not in {"pipeline.yaml"} | PRINCIPLES]
    others = {file.name: file for file in named}
    for stage, file in others.items() | files.items():
        copy = copies.get(stage, target / file.name)
        assert "extends" not in copy.read_text()
        moved = {key: str(value).replace(f"{target}/", f"{source}/") for key, value in read_recipe(copy).items()}
        assert moved == {key: str(value) for key, value in read_recipe(file).items()}, file


def test_comments_and_commands_are_those_of_the_new_folder():
    copy_recipe("tiny-lora", Path("mine"))
    pipeline, sft = Path("mine/pipeline.yaml").read_text(), Path("mine/sft.yaml").read_text()
    assert "# run       align run mine\n" in pipeline and "--sft.model_name_or_path runs/tiny/pretrain" in pipeline
    assert "# from      tiny-lora" in pipeline and "# the report counts growth" in pipeline
    assert "# run       align sft mine/sft.yaml\n" in sft
    assert "# The markers of turns" in sft and "lora_r: 8\n" in sft  # of the extended recipe, and its own
    assert "# run       align pretrain mine/pretrain.yaml\n" in Path("mine/pretrain.yaml").read_text()
    assert "README.md of recipes/tiny" in Path("mine/pretrain.yaml").read_text()


def test_other_recipes_and_runs_keep_their_names():
    text = "# recipes/tiny, recipes/tiny-lora, my/recipes/tiny, runs/tiny/sft, runs/tiny2\na: recipes/tiny\n"
    named = "# 'my model', recipes/tiny-lora, my/recipes/tiny, 'runs/my model'/sft, runs/tiny2\na: recipes/tiny\n"
    assert renamed(text, "tiny", Path("my model")) == named


def test_mappings_of_an_extended_recipe_are_merged():
    Path("base.yaml").write_text("# base\na: {x: 1, y: 2}  # both\n# of b\nb:\n  - 1\nc: 3\n")
    Path("child.yaml").write_text("# child\nextends: base.yaml\na:\n  y: 5\n  z: 'no'\nd: ${recipe_dir}\n# end\n")
    text = flattened(Path("child.yaml"))
    assert text.startswith("# child\na:\n") and "# of b\nb:\n  - 1\n" in text and text.endswith("# end\n")
    Path("flat.yaml").write_text(text)
    assert read_recipe("flat.yaml") == read_recipe("child.yaml")


@pytest.mark.parametrize("name", ["my model", "1e3", "a'b", "no: x"])
def test_any_folder_name_is_a_name_of_a_run(name):
    copy_recipe("shakespeare-char", Path(name))
    assert read_settings(Path(name)).name == name
    check, run = next_commands(Path(name))
    assert shlex.split(check) == ["align", "check", name, "--text", "TEXT"] and run.startswith("align run ")


def test_nothing_is_overwritten():
    Path("mine").mkdir()
    copy_recipe("tiny", Path("mine"))  # an empty folder is as good as none
    before = {file: file.read_text() for file in Path("mine").iterdir()}
    with pytest.raises(UserError, match="mine exists already"):
        copy_recipe("gpt2-124m", Path("mine"))
    Path("file").write_text("kept")
    with pytest.raises(UserError, match=r"file exists already(?s:.*)a file"):
        copy_recipe("tiny", Path("file"))
    assert before == {file: file.read_text() for file in Path("mine").iterdir()}


@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_leaves_nothing_behind(exists, monkeypatch):
    if exists:
        Path("mine").mkdir()
    before = sorted(Path().rglob("*"))

    def full(path, text):
        if path.name == "sft.yaml":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        path.write_text(text)

    with monkeypatch.context() as patched:
        patched.setattr(recipe_copy, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            copy_recipe("tiny", Path("mine"))
    assert sorted(Path().rglob("*")) == before
    files = copy_recipe("tiny", Path("mine"))
    assert sorted(Path("mine").iterdir()) == sorted(files) and sorted(Path().iterdir()) == [Path("mine")]


def test_the_working_directory_stays_if_the_recipe_is_written_into_it():
    inode = Path().stat().st_ino
    copy_recipe("tiny", Path())
    assert Path("pipeline.yaml").is_file() and Path().resolve().stat().st_ino == inode


@pytest.mark.parametrize("name", ["a\nb", "a\0b", os.fsdecode(b"\xff\xfe"), "sub/\x1b[1m/mine"])
def test_names_that_cannot_be_printed_are_refused(name, capsys):
    assert align.main(["init", name, "--from", "tiny"]) == 2
    said = capsys.readouterr().err
    assert f"{name!r} cannot be a recipe folder" in said and not list(Path().iterdir())
    said.encode("utf-8")


def test_a_name_that_looks_like_an_option_is_written_as_a_path(capsys):
    assert align.main(["init", "./-x", "--from", "tiny"]) == 0
    assert "align check ./-x\n" in capsys.readouterr().out
    assert "align run ./-x" in Path("-x/pipeline.yaml").read_text()


def test_init_prints_the_next_commands(capsys):
    assert align.main(["init", "mine", "--from", "recipes/local-files"]) == 0
    inputs = "--text TEXT --instructions INSTRUCTIONS --preferences PREFERENCES"
    assert capsys.readouterr().out.endswith(f"next:\n  align check mine {inputs}\n  align run mine {inputs}\n")


def test_init_lists_recipes(capsys):
    assert align.main(["init", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{listed}" for name in packaged())
    for arguments in (["init"], ["init", "mine"], ["init", "mine", "--from", "tniy"]):
        assert align.main(arguments) == 2
        assert "tiny-lora " in (said := capsys.readouterr().err)
    assert "did you mean 'tiny'?" in said and not Path("mine").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny-lora"])
def test_a_copy_passes_the_checks(name, capsys):
    copy_recipe(name, Path("mine"))
    assert align.main(["check", "mine", "--offline"]) == 0
    assert "0 errors" in capsys.readouterr().out

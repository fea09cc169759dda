"""Rewards by name, with and without options."""

import pytest

from alignment.cli.evaluate.judging import load_judge
from alignment.errors import UserError
from reward_models.calls import scores_of
from reward_models.functions import check_function, load_function, load_reward

SOURCE = """
def plain(completions, **columns):
    return [1.0] * len(completions)

def make(scale: float, words: list[str] | None = None, strict: bool = False, name: str | None = None, count: int = 3):
    def reward(completions, **columns):
        return [scale] * len(completions)
    reward.options = (scale, words, strict, name, count)
    return reward

class Judge:
    def __init__(self, mode: str = "ok"):
        self.mode = mode

    def compare(self, prompts, a, b):
        return [1.0] * len(prompts)

def costly(path: str):
    raise RuntimeError("made")
"""


@pytest.fixture
def file(tmp_path) -> str:
    (tmp_path / "own.py").write_text(SOURCE)
    return str(tmp_path / "own.py")


@pytest.mark.parametrize("options", ["", "?", "?mode=strict"])
def test_a_judge_s_class_takes_options(options, file):
    judge = load_judge(f"{file}:Judge{options}", 4)
    assert judge.compare(["a", "b"], ["x", "y"], ["z", "w"]) == [1.0, 1.0]
    assert judge.mode == ("strict" if "mode" in options else "ok")
    if options:
        with pytest.raises(UserError, match="compares two replies"):
            load_reward(f"{file}:Judge{options}")


def test_a_name_without_options_is_the_function_itself(file):
    assert load_function(f"{file}:plain")(completions=["a", "b"]) == [1.0, 1.0]


def test_options_are_read_by_the_functions_own_types(file):
    made = load_function(f"{file}:make?scale=0.5&words=a,b%26c&strict=true&name=x=y&count=7")
    assert made.options == (0.5, ["a", "b&c"], True, "x=y", 7) and made(completions=["a"]) == [0.5]
    assert load_function(f"{file}:make?scale=2").options == (2.0, None, False, None, 3)


def test_an_option_may_be_a_url(file):
    assert (
        load_function(f"{file}:make?scale=1&name=http://localhost:8000/v1?x").options[3] == "http://localhost:8000/v1?x"
    )


def test_all_wrong_options_are_named_at_once_and_nothing_is_made(file):
    with pytest.raises(UserError) as caught:
        check_function(f"{file}:make?scale=much&word=a&strict=perhaps")
    for text in ("option scale of make cannot take", "did you mean 'words'?", "expected: true or false"):
        assert text in str(caught.value).replace("  ", " ")
    with pytest.raises(UserError, match="Options of make are missing"):
        check_function(f"{file}:make?")
    check_function(f"{file}:costly?path=x")
    with pytest.raises(UserError, match="RuntimeError: made") as caught:
        load_function(f"{file}:costly?path=x")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_recipes_are_checked_without_loading_members():
    from alignment.stages.ppo import RewardSources

    spec = "reward_models.ensembles:ensemble?members=nowhere/a,nowhere/b"
    assert RewardSources(reward_funcs=[spec]).reward_funcs == [spec]
    with pytest.raises(UserError, match="did you mean 'members'"):
        RewardSources(reward_funcs=["reward_models.ensembles:ensemble?member=nowhere/a"])


def test_a_parameter_that_nothing_gives_is_named_beside_what_there_is(tmp_path):
    (tmp_path / "own.py").write_text("def score(prompts, completion, principle, **columns):\n    return [0.0]\n")
    with pytest.raises(UserError) as caught:
        scores_of(load_reward(f"{tmp_path}/own.py:score"), ["p"], ["c"], {"principle": ["x"]})
    assert caught.value.got == "prompts, completions; columns: principle"
    assert caught.value.fix == "did you mean 'completions'?"

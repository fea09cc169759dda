"""Reward functions as people write them: read alike in PPO, GRPO, samples and cards, or refused by name."""

import contextlib
import math
import sys

import ppo_tiny as tiny
import pytest
import torch
from datasets import Dataset, DatasetDict

from alignment.cli.evaluate.judging import load_judge
from alignment.data.columns.column_names import REWARD_ARGUMENTS
from alignment.errors import UserError, UserErrors
from alignment.stages.grpo import GRPORecipe, RewardedTrainer
from alignment.stages.shared.rollouts import RewardSources, load_rewards
from alignment.trainers.ppo.rewards import FunctionReward, combine, read_completions, score_samples
from alignment.trainers.ppo.rollout import rollout_of
from eval.generation.generate import score
from reward_models.calls import RESERVED
from reward_models.card.pairwise import score_pairs
from reward_models.functions import check_function, load_function, load_reward, needed_columns

# Bodies of `def reward(completions, **columns):` for four completions, and what their rewards are.
READ = {
    "numbers": ("return [1, 2.5, True, -0.0]", [1.0, 2.5, 1.0, 0.0]),
    "no opinion on some": ("return [1.0, None, None, 2.0]", [1.0, None, None, 2.0]),
    "a tuple": ("return (1.0, 2.0, 3.0, 4.0)", [1.0, 2.0, 3.0, 4.0]),
    "a generator": ("return (float(n) for n, _ in enumerate(completions))", [0.0, 1.0, 2.0, 3.0]),
    "yields": ("for n, _ in enumerate(completions):\n        yield float(n)", [0.0, 1.0, 2.0, 3.0]),
    "numpy": ("import numpy; return numpy.arange(4)", [0.0, 1.0, 2.0, 3.0]),
    "numpy numbers": ("import numpy; return [numpy.float32(1), numpy.int8(2), numpy.bool_(1), None]", [1, 2, 1, None]),
    "a tensor": ("import torch; return torch.arange(4)", [0.0, 1.0, 2.0, 3.0]),
    "gradients": ("import torch; return torch.ones(4, requires_grad=True) * 2", [2.0] * 4),
    "tensors": ("import torch; return [torch.tensor(1.5)] * 4", [1.5] * 4),
    "tensors with gradients": ("import torch; return [torch.tensor(1.5, requires_grad=True)] * 4", [1.5] * 4),
    "fractions": ("from fractions import Fraction; return [Fraction(1, 2)] * 4", [0.5] * 4),
    "a mapped list": ("return map(lambda _: 1.0, completions)", [1.0] * 4),
    "prints": ("print('asked'); return [1.0] * len(completions)", [1.0] * 4),
}
REFUSED = {
    "forgets": ("[1.0 for _ in completions]", "None"),
    "texts": ("return ['1.0'] * len(completions)", "1.0"),
    "a text": ("return '1234'", "'1234'"),
    "bytes": ("return b'1234'", "bytes"),
    "one number": ("return 1.0", "1.0 (float)"),
    "a scalar": ("import numpy; return numpy.float64(1)", "float64"),
    "a 0-d tensor": ("import torch; return torch.tensor(1.0)", "shape ()"),
    "a column": ("import torch; return torch.ones(4, 1)", "shape (4, 1)"),
    "a matrix": ("import numpy; return numpy.ones((4, 4))", "shape (4, 4)"),
    "a dictionary": ("return {n: 1.0 for n in range(4)}", "dict"),
    "a set": ("return {1.0, 2.0, 3.0, 4.0}", "set"),
    "too few": ("return [1.0]", "expected: 4"),
    "too many": ("return [1.0] * 5", "got: 5"),
    "none at all": ("return []", "got: 0"),
    "without end": ("import itertools; return itertools.count()", "more than 4"),
    "nested": ("return [[1.0]] * 4", "[1.0] (list)"),
    "a list of vectors": ("import torch; return [torch.ones(1)] * 4", "Tensor"),
    "NaN": ("return [1.0, float('nan'), 1.0, 1.0]", "nan"),
    "infinite": ("return [float('inf')] * 4", "inf"),
    "beyond 32 bits": ("return [1e39] * 4", "1e+39"),
    "a huge whole number": ("return [10 ** 5000] * 4", "bits"),
    "complex": ("return [1j] * 4", "complex"),
    "raises": ("return [1 / 0 for _ in completions]", "ZeroDivisionError: division by zero (FILE:2)"),
    "raises late": ("yield 1.0\n    raise KeyError('answer')", "KeyError: 'answer' (FILE:3)"),
    "ends the process": ("import sys; sys.exit(0)", "SystemExit"),
    "asks for a column": ("return [float(one) for one in columns['answers']]", "KeyError: 'answers' (FILE:2)"),
    "no text form": ("return [type('T', (), {'__repr__': lambda self: 1 / 0})()] * 4", "ZeroDivisionError"),
    "raises what cannot be shown": (
        "raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})()",
        "got: E (FILE:2)",
    ),
    "raises the base of all": ("raise BaseException('no')", "BaseException: no (FILE:2)"),
    "raises its own base": ("raise type('Stop', (BaseException,), {})('no')", "Stop: no (FILE:2)"),
    "raises for generators": ("raise GeneratorExit", "GeneratorExit (FILE:2)"),
    "cancels": ("import asyncio; raise asyncio.CancelledError", "CancelledError (FILE:2)"),
    "has no memory": ("raise MemoryError", "MemoryError (FILE:2)"),
    "logs the trainer's": ("columns['log_metric']('loss', 5); return [1.0] * 4", "log_metric: loss is a metric"),
    "logs the reward": ("columns['log_metric']('reward', 5); return [1.0] * 4", "log_metric('own/reward', value)"),
    "logs others' rewards": ("columns['log_metric']('rewards/x/mean', 5); return [1.0] * 4", "log_metric: rewards/x"),
    "logs no name": ("columns['log_metric'](None, 5); return [1.0] * 4", "log_metric: a name is not a text"),
    "logs a number as name": ("columns['log_metric'](3, 1.0); return [1.0] * 4", "3 (int)"),
    "logs a tuple": ("columns['log_metric'](('a', 'b'), 1.0); return [1.0] * 4", "(tuple)"),
    "logs a numbered column": ("columns['log_extra'](3, [1] * 4); return [1.0] * 4", "log_extra: a name is not"),
    "logs mixed values": ("columns['log_extra']('note', [1, 'a', None, 2]); return [1.0] * 4", "cannot be recorded"),
    "logs the prompts": ("columns['log_extra']('prompt', [1] * 4); return [1.0] * 4", "log_extra: prompt is a column"),
    "logs a text": ("columns['log_metric']('words', 'many'); return [1.0] * 4", "log_metric: words"),
    "logs too little": ("columns['log_extra']('note', [1]); return [1.0] * 4", "note has the wrong length"),
    "logs an object": ("columns['log_extra']('note', [object()] * 4); return [1.0] * 4", "note cannot be recorded"),
}
TRAINERS = ("ppo", "grpo")
CALLERS = (*TRAINERS, "sample", "card")
ROWS = [{"prompt": [{"role": "user", "content": f"w{n}"}], "answer": str(n)} for n in range(2) for _ in range(2)]
REPLIES = [[4, 5], [6], [7, 8, 9], [10]]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    args = GRPORecipe(
        str(tmp_path_factory.mktemp("grpo")),
        num_generations=2,
        per_device_train_batch_size=4,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )

    async def waits(completions, **columns):
        return [0.0] * len(completions)

    data = Dataset.from_list(ROWS)
    return RewardedTrainer(tiny.model(), [waits], args=args, train_dataset=data, processing_class=tiny.tokenizer())


@pytest.fixture
def scores(trainer):
    """Call a reward as a caller does: its reward for each of the four completions, None for no opinion."""
    tokenizer = tiny.tokenizer()
    texts = tokenizer.batch_decode(REPLIES)
    talks = [[{"role": "assistant", "content": text}] for text in texts]

    def call(caller, reward):
        if caller == "sample":
            return score(reward, ROWS, texts)
        if caller == "card":
            return as_list(score_pairs(reward, Dataset.from_list(pairs())).chosen)
        if caller == "ppo":
            rollout = rollout_of([[4]] * 4, REPLIES, [tiny.EOS], tiny.PAD, torch.device("cpu"))
            given = {"trainer_state": "state", "log_metric": lambda *_: None}
            samples = read_completions(rollout, ROWS, tokenizer, given)
            [found] = score_samples([FunctionReward(reward)], samples).rewards.values()
            return as_list(found)
        trainer.reward_funcs, trainer.reward_func_names = [reward], [reward.__name__]
        return as_list(trainer._calculate_rewards(ROWS, [row["prompt"] for row in ROWS], talks, REPLIES)[:, 0])

    def pairs():
        both = zip(ROWS, talks, strict=True)
        return [row | {"chosen": talk, "rejected": talk} for row, talk in both]

    return call


def as_list(values):
    return [None if math.isnan(value) else value for value in values.tolist()]


@pytest.fixture
def made(tmp_path):
    def make(source, name="reward"):
        file = tmp_path / "own.py"
        file.write_text(source)
        return f"{file}:{name}"

    return make


def body(code):
    return f"def reward(completions, **columns):\n    {code}\n"


def words(text):
    return " ".join(str(text).split())


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("case", READ)
def test_what_is_read(case, caller, made, scores):
    code, expected = READ[case]
    assert scores(caller, load_reward(made(body(code)))) == expected


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case, made, scores):
    code, said = REFUSED[case]
    spec = made(body(code))
    for caller in TRAINERS if "log_" in code else CALLERS:
        with pytest.raises(UserError) as caught:
            scores(caller, load_reward(spec))
        text = words(caught.value)
        assert said.replace("FILE", spec.rpartition(":")[0]) in text, caller
        assert "log_" in code or "reward'" in text
        assert case not in ("raises", "raises late") or isinstance(caught.value.__cause__, ZeroDivisionError | KeyError)


@pytest.mark.parametrize("caller", CALLERS)
def test_functions_of_every_make(caller, made, scores):
    source = (
        "from functools import partial\n"
        "class Judge:\n"
        "    def __init__(self, bonus: float = 1.0):\n"
        "        self.bonus = bonus\n"
        "    def __call__(self, completions, **columns):\n"
        "        return [self.bonus] * len(completions)\n"
        "class Later(Judge):\n"
        "    async def __call__(self, completions, **columns):\n"
        "        return [self.bonus] * len(completions)\n"
        "async def later(completions, **columns):\n"
        "    return [1.0] * len(completions)\n"
        "def with_bonus(completions, bonus, **columns):\n"
        "    return [bonus] * len(completions)\n"
        "short = lambda completions, **columns: [1.0] * len(completions)\n"
        "hidden = lambda completions, **columns: later(completions)\n"
        "bound, async_bound = partial(with_bonus, bonus=1.0), partial(later)\n"
        "judge, later_judge = Judge(), Later()\n"
        "def defaults(prompts, *, completions, missing=None, **columns):\n"
        "    return [1.0] * len(completions)\n"
    )
    names = ["judge", "later_judge", "later", "short", "hidden", "bound", "async_bound", "defaults"]
    for name in [*names, "Judge?", "Judge?bonus=1", "Later?"]:
        reward = load_reward(made(source, name))
        assert scores(caller, reward) == [1.0] * 4, name
        assert reward.__name__ == name.partition("?")[0]


@pytest.mark.parametrize("caller", CALLERS)
def test_a_function_cannot_change_what_others_see(caller, made, scores):
    source = (
        "def reward(prompts, completions, answer, **columns):\n"
        "    found = [float(len(one[-1]['content'])) + len(prompt) for prompt, one in zip(prompts, completions)]\n"
        "    for one in (*prompts, *completions):\n"
        "        one[-1]['content'] += ' changed'\n"
        "        one.append({'role': 'user', 'content': ''})\n"
        "    answer.clear(); prompts.clear()\n"
        "    return found\n"
    )
    reward = load_reward(made(source))
    assert scores(caller, reward) == scores(caller, reward)
    assert ROWS[0] == {"prompt": [{"role": "user", "content": "w0"}], "answer": "0"}


@pytest.mark.parametrize("where", ["the file", "the function", "a failing function", "a failing file"])
def test_torch_records_gradients_as_before(where, made, scores):
    off = "import torch; torch.set_grad_enabled(False)"
    inside, fails = "function" in where, "failing" in where
    source = "" if inside else f"{off}\n" + "1 / 0\n" * fails
    source += body(f"{off if inside else 'pass'}; {'1 / 0; ' * fails}return [1.0] * len(completions)")
    for caller in CALLERS:
        with contextlib.suppress(UserError):
            scores(caller, load_reward(made(source)))
        assert torch.is_grad_enabled(), caller


@pytest.mark.parametrize("error", ["asyncio.CancelledError", "GeneratorExit", "BaseException", "MemoryError"])
@pytest.mark.parametrize("caller", CALLERS)
def test_what_async_functions_raise(caller, error, made, scores):
    source = (
        f"import asyncio\nasync def reward(completions, **columns):\n    await asyncio.sleep(0)\n    raise {error}\n"
    )
    spec = made(source)
    with pytest.raises(UserError, match=f"(?s)'reward'.*{error.rpartition('.')[2]}.*own.py:4"):
        scores(caller, load_reward(spec))


def test_a_keyboard_interrupt_is_passed_on(made, scores):
    with pytest.raises(KeyboardInterrupt):
        scores("sample", load_reward(made(body("raise KeyboardInterrupt"))))


# ---- Before training ----

SIGNATURES = {
    "strict(prompts, completions)": "add **columns to strict's parameters",
    "few(completions)": "add **columns",
    "listed(completions, *others)": "add **columns",
    "fixed(completions, /, **columns)": "remove the /",
    "needs(completions, solution, **columns)": "solution",
    "lacks(prompts, completions, completion_ids, trainer_state, log_metric, log_extra)": "add **columns",
    "makes(low, high=3)": "add its options: makes?",
    "empty()": "not a reward function",
    "compute_score(data_source, solution_str, ground_truth, extra_info=None)": "reward(completions, ground_truth, **",
    "match(response, answer)": "calls match for each reply",
}


@pytest.mark.parametrize("signature", SIGNATURES)
def test_signatures_that_cannot_be_called_are_refused_before_training(signature, made):
    name = signature.partition("(")[0]
    spec = made(f"def {signature}:\n    return [1.0] * 4\n", name)
    splits = DatasetDict(train=Dataset.from_list(ROWS))
    with pytest.raises(UserError) as caught:
        load_rewards(RewardSources(reward_funcs=[spec]).reward_funcs, splits)
    assert SIGNATURES[signature] in words(caught.value) and name in words(caught.value)


def test_a_function_may_list_all_arguments(made, scores):
    source = (
        "def reward(prompts, completions, completion_ids, trainer_state, log_metric, log_extra, answer):\n"
        "    return [float(one) for one in answer]\n"
    )
    splits = DatasetDict(train=Dataset.from_list(ROWS))
    [reward] = load_rewards([made(source)], splits)
    assert [scores(caller, reward) for caller in TRAINERS] == [[0.0, 0.0, 1.0, 1.0]] * 2


def test_needed_columns_are_those_of_options_and_parameters(made):
    splits = DatasetDict(train=Dataset.from_list(ROWS))
    wrong = [f"rules:answer_match?column={name}" for name in ("nope", "answr")]
    wrong.append(made("def f(solution, **columns): pass", "f"))
    with pytest.raises(UserErrors) as caught:
        load_rewards(wrong, splits)
    assert [name in words(caught.value) for name in ("nope", "answr", "solution")] == [True] * 3
    assert "columns: answer" in words(caught.value) and len(caught.value.errors) == 3
    [reward] = load_rewards(["rules:answer_match?"], splits)
    assert needed_columns("rules:answer_match?") == ["answer"] and reward.__name__ == "answer_match"
    assert needed_columns("rules:code_passes?allow_execution=true&column=checks") == ["checks"]
    assert needed_columns("rules:length_band?low=1&high=2") == needed_columns("tinyworld:gold_reward") == []


SPECS = {
    "nowhere.py:reward": "no file nowhere.py",
    "no_such_module:reward": "no module no_such_module",
    "rules:length_bands?low=1": "did you mean 'length_band'?",
    "rules:length_band": "add its options: length_band?",
    "rules:length_band?": "expected: low, high",
    "rules:length_band?low=1&hihg=2": "did you mean 'high'?",
    "rules:length_band?low=one&high=2": "a whole number",
    "rules:length_band?low": "low=VALUE",
    "tinyworld:gold_reward?": "leave out the ?",
    "tinyworld:gold_reward?task=x": "leave out the ?",
    "rules:FENCE": "type Pattern",
    "rules": "names no function",
    "rules:": "names no function",
    ":reward": "names no function",
    "?": "names no function",
}


@pytest.mark.parametrize("spec", SPECS)
def test_names_and_options_that_are_wrong(spec):
    with pytest.raises(UserError) as caught:
        check_function(spec)
    assert SPECS[spec] in words(caught.value)


IMPORTS = {
    "def reward(:": "SyntaxError",
    "raise RuntimeError('not here')": "RuntimeError: not here (FILE:1)",
    "x = 1 / 0": "ZeroDivisionError: division by zero (FILE:1)",
    "{}['key']": "KeyError: 'key' (FILE:1)",
    "assert False": "AssertionError (FILE:1)",
    "import sys\nsys.exit(3)": "SystemExit: 3 (FILE:2)",
    "import no_such_module": "No module named 'no_such_module' (FILE:1)",
    "from . import nothing_here": "ImportError",
    "from .. import beyond": "ImportError",
    "reward = 3": "reward is of type int",
    "def rewards(completions, **columns): pass": "did you mean 'rewards'?",
    "class reward:\n    def __call__(self, **columns): pass": "write reward? to call it",
}


@pytest.mark.parametrize("source", IMPORTS)
def test_files_that_cannot_be_used(source, made):
    spec = made(source)
    with pytest.raises(UserError) as caught:
        check_function(spec)
    assert IMPORTS[source].replace("FILE", spec.rpartition(":")[0]) in words(caught.value)


MAKERS = {
    "def make(x: float): raise RuntimeError('made')": "RuntimeError: made",
    "def make(x: float): pass": "None (NoneType)",
    "def make(x: float): return x": "1.0 (float)",
    "def make(x: float): return lambda replies: None": "is not a reward function",
    "def make(x, /): pass": "remove the /",
    "class make:\n    def __init__(self, x): self.x = x": "makes no reward function",
}


@pytest.mark.parametrize("source", MAKERS)
def test_functions_that_make_no_reward(source, made):
    with pytest.raises(UserError) as caught:
        load_reward(made(source, "make?x=1"))
    assert MAKERS[source] in words(caught.value) and "make" in words(caught.value)


def test_options_of_every_annotation(made):
    source = (
        "from __future__ import annotations\n"
        "def make(a: Unknown = 1, b: list = (), c=2, **others):\n"
        "    def reward(completions, **columns):\n"
        "        return [1.0] * len(completions)\n"
        "    reward.options = (a, b, c, others)\n"
        "    return reward\n"
        "def plain(b: list = ()):\n"
        "    return make(b=b)\n"
    )
    assert load_function(made(source, "make?a=1e-3&c=x&d=true")).options == (1e-3, (), "x", {"d": True})
    assert load_function(made(source, "plain?b=1,x")).options[1] == [1, "x"]
    assert load_reward(made(source, "plain?")).__name__ == "plain"


def test_files_beside_and_dataclasses(made, tmp_path):
    (tmp_path / "own_helper.py").write_text("BONUS = 2.0\n")
    source = (
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from .own_helper import BONUS\n"
        "@dataclass\n"
        "class Score:\n"
        "    value: float\n"
        "def reward(completions, **columns):\n"
        "    from own_helper import BONUS as again\n"
        "    return [Score(BONUS * again).value] * len(completions)\n"
    )
    try:
        assert load_reward(made(source))(completions=["a"], prompts=["b"]) == [4.0]
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("own_helper")


WEIGHTS = {
    (math.nan, 1.0): "not finite",
    (math.inf, 1.0): "not finite",
    (0.0, 0.0): "weight 0",
    (1.0,): "does not fit",
    (1.0, 1.0, 1.0): "does not fit",
}


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights(weights):
    with pytest.raises(UserError, match=WEIGHTS[weights]):
        RewardSources(reward_funcs=["tinyworld:gold_reward"] * 2, reward_weights=list(weights))


def test_all_mistakes_at_once():
    with pytest.raises(UserErrors) as caught:
        RewardSources(reward_funcs=["nowhere.py:a", "rules:length_band"], reward_weights=[1.0])
    assert len(caught.value.errors) == 3


def test_rows_never_have_a_column_named_like_an_argument():
    """tests/data/reading/test_real_rows.py has the rows."""
    assert {*RESERVED, "prompt", "completion"} <= set(REWARD_ARGUMENTS)


@pytest.mark.parametrize("caller", ["ppo", "sample", "card"])
def test_such_columns_of_rows_do_not_reach_a_function(caller, scores, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROWS", [row | {"completions": "x", "log_extra": "y"} for row in ROWS])
    assert scores(caller, load_reward("rules:length_band?low=1&high=2&fall=2")) == [1.0, 1.0, 0.5, 1.0]


# ---- As TRL counts rewards ----


@pytest.mark.parametrize("weights", [[1.0, 0.5], [2.0, -1.0], [1.0, 0.0]])
def test_rewards_count_in_grpo_as_in_ppo(weights, trainer):
    """None is left out of the sum; a reward of weight 0 is only logged."""
    first, second = [1.0, None, None, 2.0], [3.0, 4.0, None, None]
    functions = [lambda values=values, **_: values for values in (first, second)]
    trainer.reward_funcs, trainer.reward_func_names = functions, ["first", "second"]
    trainer.reward_weights, trainer.reward_processing_classes = torch.tensor(weights), [None, None]
    talks = [[{"role": "assistant", "content": "w1"}]] * 4
    found = trainer._calculate_rewards(ROWS, [row["prompt"] for row in ROWS], talks, REPLIES)
    trainer.reward_weights, trainer.reward_processing_classes = torch.ones(1), [None]
    total = (found * torch.tensor(weights)).nansum(1).masked_fill(found.isnan().all(1), math.nan)  # TRL's sum
    columns = [torch.tensor([math.nan if one is None else one for one in values]) for values in (first, second)]
    torch.testing.assert_close(total, combine(columns, weights), equal_nan=True)


def test_names_of_rewards_are_distinct(made):
    from reward_models.calls import distinct

    assert distinct(["a", "b", "a"]) == ["a_0", "b", "a_2"]
    assert distinct(["a", "a", "a_1"]) == ["a_0", "a_1_1", "a_1_2"]
    assert distinct(["a", "b"]) == ["a", "b"]


# ---- Judges of two replies ----

COMPARERS = {
    "return [1] * len(prompts)": None,
    "return [None] * len(prompts)": None,
    "return [0.7] * len(prompts)": None,
    "return [1.7] * len(prompts)": "1.7",
    "return [-0.1] * len(prompts)": "-0.1",
    "return ['A'] * len(prompts)": "'A'",
    "return [1]": "wrong number",
    "return None": "None",
    "return 1 / 0": "ZeroDivisionError",
    "return [float('nan')] * len(prompts)": "not finite",
}


@pytest.mark.parametrize("code", COMPARERS)
def test_judges_of_two_replies(code, made):
    from reward_models.judges.positions import judge_in_both_positions

    judge = load_judge(made(f"class Judge:\n    def compare(self, prompts, a, b):\n        {code}\n", "Judge"), 1)
    asked = ["p"] * 3, ["x"] * 3, ["y"] * 3
    if COMPARERS[code] is None:
        assert len(judge_in_both_positions(judge, *asked).preferences) == 3
        return
    with pytest.raises(UserError) as caught:
        judge_in_both_positions(judge, *asked)
    assert COMPARERS[code] in words(caught.value) and "Judge" in words(caught.value)

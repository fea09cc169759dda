"""Items that do not fit into the model's context are left out and counted; the others score as if they were alone."""

import json
import re
from pathlib import Path

import lm_eval
import numpy
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from alignment.errors import UserError
from eval.comparison.compare import compare, compare_pairs
from eval.comparison.find import match
from eval.comparison.table import compare_table, eval_table
from eval.harness.run_suite import evaluate
from eval.harness.store import load_run

WORDS = ["red", "green", "blue", "hat", "cup", "boat", "barn", "hill", "goat"]
LONG = (1, 4, 8)


def write_suite(folder: Path, kind: str, long=LONG) -> str:
    rows = []
    for n, word in enumerate(WORDS):
        text = f"{'the fox ' * (400 if n in long else n)}has a {word}?"
        rows.append({"id": f"q{n}", "question": text, "answer": word, "choices": [word, "owl", "a red fox"]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "generated": 'output_type: generate_until\ngeneration_kwargs: {until: ["\\n"], max_gen_toks: 8}\n'
        "metric_list: [{metric: exact_match}]\ndoc_to_target: '{{answer}}'\n",
        "chosen": "output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: 0\n"
        "metric_list: [{metric: acc}, {metric: acc_norm}]\n",
        "last word": "output_type: loglikelihood\ndoc_to_target: ' {{answer}}'\n"
        "metric_list: [{metric: perplexity}, {metric: acc}]\n",
        "filtered": 'output_type: generate_until\ngeneration_kwargs: {until: ["\\n"], max_gen_toks: 8}\n'
        "metric_list: [{metric: exact_match}]\ndoc_to_target: '{{answer}}'\nfilter_list:\n"
        "  - {name: first, filter: [{function: regex, regex_pattern: '([a-z])'}, {function: take_first}]}\n"
        "  - {name: all, filter: [{function: take_first}]}\n",
    }
    (folder / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}\n"
        f"test_split: test\ndoc_to_text: '{{{{question}}}}'\n{settings[kind]}"
    )
    return str(folder / "own.yaml")


@pytest.mark.parametrize(
    ("kind", "batch_size"),
    [
        *[("generated", 1), ("chosen", 4), ("filtered", 4)],
        *[
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("generated", 4), ("chosen", 1), ("filtered", 1), ("last word", 1), ("last word", 4))
        ],
    ],
)
def test_the_others_score_as_lm_eval_scores_them(kind, batch_size, model, tokenizer, tmp_path):
    """lm-eval itself on the items that fit, by its own option `samples`."""
    suite = write_suite(tmp_path, kind)
    record = evaluate("m", suite, "plain", tmp_path / "run", loaded=(model, tokenizer), batch_size=batch_size)
    fitting = [n for n in range(len(WORDS)) if n not in LONG]
    wanted = lm_eval.simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=512),
        tasks=["own"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        samples={"own": fitting},
        bootstrap_iters=0,
    )["results"]["own"]
    for figure in record["tasks"]:
        name = figure["metric"] if "," in figure["metric"] else f"{figure['metric']},none"
        assert figure["value"] == pytest.approx(wanted[name], rel=1e-5), name
        assert figure["n"] == len(fitting)
    items = load_run(tmp_path / "run").items
    assert set(items["item_id"]) == {f"q{n}" for n in fitting}
    assert record["left_out"] == [
        {"task": "own", "reason": "too long", "n": 3, "of": 9, "items": [f"q{n}" for n in LONG]}
    ]


@pytest.mark.parametrize("kind", ["generated", "chosen"])
def test_how_many_is_said_beside_the_scores(kind, model, tokenizer, tmp_path, caplog):
    suite = write_suite(tmp_path, kind)
    record = evaluate("m", suite, "plain", tmp_path / "run", loaded=(model, tokenizer))
    for text in (caplog.text, eval_table([record])):
        assert "3 of 9 items" in text and "own" in text and "context of 512 tokens" in text


@pytest.mark.parametrize("kind", ["generated", "chosen"])
def test_may_be_refused(kind, model, tokenizer, tmp_path):
    suite = write_suite(tmp_path, kind)
    with pytest.raises(UserError, match="3 of 9"):
        evaluate("m", suite, "plain", tmp_path / "run", loaded=(model, tokenizer), too_long="refuse")
    assert not (tmp_path / "run/run.json").exists()


def test_nothing_left_is_refused(model, tokenizer, tmp_path):
    suite = write_suite(tmp_path, "chosen", long=range(9))
    with pytest.raises(UserError, match="9 of 9"):
        evaluate("m", suite, "plain", tmp_path / "run", loaded=(model, tokenizer))


@pytest.mark.parametrize("too_long", ["skip", "refuse"])
@pytest.mark.parametrize(
    ("kind", "shots", "advice"),
    [
        ("generated", 1, "SUITE?num_fewshot=0&max_gen_toks=64"),
        ("generated", 0, "SUITE?max_gen_toks=64"),
        ("chosen", 2, "SUITE?num_fewshot=0)"),
        ("chosen", None, "longer context"),
    ],
)
def test_only_options_that_the_task_has_are_advised(kind, shots, advice, too_long, model, tokenizer, tmp_path):
    """A task whose examples are written into its prompt draws none."""
    suite = write_suite(tmp_path, kind, long=range(9))
    options = {"num_fewshot": shots, "too_long": too_long}
    with pytest.raises(UserError, match=re.escape(advice)):
        evaluate("m", suite, "plain", tmp_path / "run", loaded=(model, tokenizer), **options)


def test_a_suite_that_fits_is_measured_as_before(model, tokenizer, tmp_path):
    suite = write_suite(tmp_path, "chosen", long=())
    record = evaluate("m", suite, "plain", tmp_path / "run", loaded=(model, tokenizer))
    assert record["left_out"] == [] and "left out" not in eval_table([record])


def test_limit_counts_the_items_that_were_asked_for(model, tokenizer, tmp_path):
    suite = write_suite(tmp_path, "generated")
    record = evaluate("m", suite, "plain", tmp_path / "run", loaded=(model, tokenizer), limit=4)
    assert [(one["n"], one["of"]) for one in record["left_out"]] == [(1, 4)]
    assert record["tasks"][0]["n"] == 3


@pytest.fixture(scope="module")
def runs(model, long_model, tokenizer, tmp_path_factory):
    """Runs of one suite by a model of a short and by one of a long context."""
    folder = tmp_path_factory.mktemp("sides")
    suite = write_suite(folder, "chosen")
    for stage, one in {"short": model, "long": long_model}.items():
        evaluate(stage, suite, "plain", folder / stage, stage=stage, loaded=(one, tokenizer))
    return folder


@pytest.mark.parametrize("sides", [("short", "long"), ("long", "short"), ("short", "short")])
def test_pairs_are_of_the_items_that_both_sides_have(sides, runs):
    rows = compare(*(runs / side for side in sides))
    assert {row["n"] for row in rows} == {6} and {row["left_out"] for row in rows} == {3}
    table = compare_table(rows)
    assert "3 of 9 items" in table
    both = {side: load_run(runs / side).items for side in sides}
    short = both[sides[0]].merge(both[sides[1]], on=["metric", "item_id"])
    for row in rows:
        scores = short[short["metric"] == row["metric"]]
        numpy.testing.assert_allclose(
            (row["value_a"], row["value_b"]), (scores["score_x"].mean(), scores["score_y"].mean())
        )


def test_items_that_are_missing_for_another_reason_are_refused(runs, tmp_path):
    from eval.harness.store import save_run

    run = load_run(runs / "short")
    fewer = run.items[run.items["item_id"] != "q2"]
    save_run(tmp_path / "fewer", {key: value for key, value in run.record.items() if key != "items"}, fewer)
    with pytest.raises(UserError, match="different items"):
        compare_pairs(match(runs / "long", [tmp_path / "fewer"])[0])


def test_few_shot_examples_do_not_change_with_the_items_left_out(model, long_model, tokenizer, tmp_path):
    """Examples are drawn for every item in turn: the prompts of the others stay."""
    suite = write_suite(tmp_path, "generated", long=(4,))
    prompts = []
    for name, one in {"short": model, "long": long_model}.items():
        evaluate("m", suite, "plain", tmp_path / name, loaded=(one, tokenizer), num_fewshot=1)
        items = load_run(tmp_path / name).items
        prompts.append(dict(zip(items["item_id"], items["prompt"], strict=True)))
    short, long = prompts
    assert len(short) < len(long) and short.items() <= long.items()

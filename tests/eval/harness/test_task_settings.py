"""lm-eval YAML with settings, functions and filters that cannot work: a UserError that names them, no traceback."""

import pytest

from alignment.errors import UserError
from eval.harness.run_suite import evaluate
from eval.harness.suite import load_suite

BASE = """task: own
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list: [{metric: exact_match}]
"""
METRICS, STOPS, LENGTH = "[{metric: exact_match}]", 'until: ["\\n"]', "max_gen_toks: 4"
HOOKS = """
import sys
def nothing(doc, results): return None
def text(doc, results): return "yes"
def word(doc, results): return {"exact_match": "x"}
def none(doc, results): return {"exact_match": None}
def empty(doc, results): return {}
def leaves(doc, results): sys.exit(4)
def stops(doc): raise SystemExit(4)
"""


def choices(text):
    return BASE.replace("generate_until", "multiple_choice").replace("exact_match", "acc") + text


def with_function(name):
    return BASE + f"process_results: !function hooks.{name}\n"


def filtered(text):
    return BASE + f"filter_list:\n - name: f\n   filter:\n{text}"


REFUSED = {  # settings: a word of the refusal; those below the line fail when replies are scored
    "until a number": (BASE.replace(STOPS, "until: 5"), "until"),
    "until numbers": (BASE.replace(STOPS, "until: [5]"), "until"),
    "length a word": (BASE.replace(LENGTH, "max_gen_toks: x"), "max_gen_toks"),
    "length negative": (BASE.replace(LENGTH, "max_gen_toks: -1"), "max_gen_toks"),
    "length zero by another name": (BASE.replace(LENGTH, "max_new_tokens: 0"), "max_new_tokens"),
    "temperature zero": (BASE.replace(LENGTH, "temperature: 0.0, do_sample: true"), "temperature"),
    "temperature negative": (BASE.replace(LENGTH, "temperature: -1, do_sample: true"), "temperature"),
    "temperature NaN": (BASE.replace(LENGTH, "temperature: .nan"), "temperature"),
    "do_sample a word": (BASE.replace(LENGTH, "do_sample: maybe"), "do_sample"),
    "several replies": (BASE.replace(LENGTH, "num_return_sequences: 2, do_sample: true"), "num_return_sequences"),
    "no beams": (BASE.replace(LENGTH, "num_beams: 0"), "num_beams"),
    "no repeats": (BASE + "repeats: 0\n", "repeats"),
    "few-shot negative": (BASE + "num_fewshot: -1\n", "num_fewshot"),
    "no choices": (choices(""), "doc_to_choice"),
    "no metrics": (BASE.replace(METRICS, "[]"), "metric_list"),
    "an aggregation that is none": (BASE.replace("exact_match", "exact_match, aggregation: max"), "aggregation of"),
    "a filter's broken pattern": (filtered("   - {function: regex, regex_pattern: '('}\n"), "filter f.*subpattern"),
    "rows that leave": (BASE + "process_docs: !function hooks.stops\n", "process_docs"),
    "hooks with a syntax error": (BASE + "process_results: !function broken.f\n", "SyntaxError"),
    "hooks that leave": (BASE + "process_results: !function leaving.f\n", "SystemExit"),
}
UNSCORED = {
    "another kind's metric": (BASE.replace("exact_match", "acc"), "'own'.*metric acc"),
    "perplexity of replies": (BASE.replace("exact_match", "perplexity"), "'own'.*metric perplexity"),
    "a filter without an answer": (
        filtered("   - {function: regex, regex_pattern: '(x)', fallback: null}\n   - {function: take_first}\n"),
        "'own'",
    ),
    **{name: (with_function(name), "own") for name in ("nothing", "text", "word", "none", "empty", "leaves")},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("yaml")
    (folder / "rows.jsonl").write_text('{"question": "3 plus 4?", "answer": "7"}\n{"question": "b", "answer": "8"}\n')
    (folder / "hooks.py").write_text(HOOKS)
    (folder / "broken.py").write_text("def f(d)\n")
    (folder / "leaving.py").write_text("import sys\nsys.exit(4)\ndef f(doc, results): return {}\n")
    return folder


def suite_of(folder, text) -> str:
    (folder / "own.yaml").write_text(text.replace("FOLDER", str(folder)))
    return str(folder / "own.yaml")


@pytest.mark.parametrize(("text", "word"), REFUSED.values(), ids=REFUSED)
def test_is_refused_when_it_is_loaded(text, word, folder):
    with pytest.raises(UserError, match=f"(?s){word}"):
        load_suite(suite_of(folder, text), "plain")


@pytest.mark.parametrize(("text", "word"), UNSCORED.values(), ids=UNSCORED)
def test_is_refused_when_replies_are_scored(text, word, folder, model, tokenizer, tmp_path):
    with pytest.raises(UserError, match=f"(?s){word}"):
        evaluate("m", suite_of(folder, text), "plain", tmp_path / "run", loaded=(model, tokenizer))
    assert not (tmp_path / "run/run.json").exists()


@pytest.mark.parametrize(
    "settings", ["until: null", "max_gen_toks: '4'", "temperature: 0.5", "num_return_sequences: 1"]
)
def test_usual_settings_are_not_refused(settings, folder):
    assert load_suite(suite_of(folder, BASE.replace(LENGTH, settings)), "plain").tasks


def test_a_single_choice_has_a_score_and_nothing_above_chance(folder, model, tokenizer, tmp_path):
    text = choices("doc_to_choice: ['7']\n").replace('"{{answer}}"', "0")
    record = evaluate("m", suite_of(folder, text), "plain", tmp_path / "run", loaded=(model, tokenizer))
    figure = record["tasks"][0]
    assert (figure["value"], figure["chance"], figure["centred"]) == (1.0, 1.0, None)


def test_an_error_of_the_model_is_not_the_tasks(folder, model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.harness.lm.CausalLM.reply", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate("m", suite_of(folder, BASE), "plain", tmp_path / "run", loaded=(model, tokenizer))


def test_a_name_that_is_a_number_is_named_with_its_file(folder, tmp_path):
    suite = suite_of(tmp_path, BASE.replace("FOLDER", str(folder)))
    (tmp_path / "five.yaml").write_text(BASE.replace("FOLDER", str(folder)).replace("task: own", "task: 5"))
    with pytest.raises(UserError, match=r'five.yaml has a name(?s:.*)"5"'):
        load_suite(suite, "plain")
    (tmp_path / "five.yaml").write_text((tmp_path / "five.yaml").read_text().replace("task: 5", 'task: "5"'))
    assert load_suite(suite, "plain").tasks

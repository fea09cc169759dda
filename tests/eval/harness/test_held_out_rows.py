"""Held-out files in the formats of SFT: the prompt is that of training, and nothing of it is left out unsaid."""

import argparse
import json
import logging
from functools import partial

import pytest

from alignment.cli.evaluate import eval as verb
from alignment.data.reading.files import read_files
from alignment.data.reading.formats import convert
from alignment.errors import UserError
from eval.harness.chat_prompt import render_chat
from eval.harness.run_suite import evaluate, evaluate_many
from eval.harness.suite import load_suite, suite_digest, suite_name
from eval.suite_rows.column_mapping import parse_columns, with_columns
from eval.suite_rows.held_out_rows import read_held_out


def write(folder, rows, name="held-out.jsonl"):
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def said(role, content):
    return {"role": role, "content": content}


SYSTEM, TALK = said("system", "Be brief."), [said("user", "Hi."), said("assistant", "Hello.")]
# name -> (rows, columns)
FORMATS = {
    "alpaca": ([{"instruction": "Name it.", "input": f"It is {k}.", "output": f"{k}."} for k in range(3)], None),
    "answer": ([{"instruction": "Name it.", "input": f"It is {k}.", "answer": f"{k}."} for k in range(3)], None),
    "passage": ([{"question": "Who?", "context": f"Guest {k} slept.", "answer": f"{k}."} for k in range(3)], None),
    "some inputs": ([{"instruction": f"Say {k}.", "input": k % 2 and "Now.", "output": f"{k}."} for k in (0, 1)], None),
    "completion": ([{"prompt": f"What is {k}?", "completion": f"{k}."} for k in range(3)], None),
    "messages": ([{"messages": [SYSTEM, *TALK, said("user", f"{k}?"), said("assistant", "I.")]} for k in "abc"], None),
    "system": ([{"system": "Be brief.", "question": f"{k}?", "answer": f"{k}."} for k in range(3)], None),
    "history": ([{"history": [["Hi.", "Hello."]], "query": f"{k}?", "response": f"{k}."} for k in range(3)], None),
    "prompt turns": ([{"prompt": [*TALK, said("user", f"{k}?")], "answer": f"{k}."} for k in range(3)], None),
    "sharegpt": (
        [{"conversations": [{"from": "human", "value": f"{k}?"}, {"from": "gpt", "value": "I."}]} for k in range(3)],
        None,
    ),
    "mapped": (
        [{"Frage": f"Wer {k}?", "Antwort": f"{k}."} for k in range(3)],
        {"Frage": "prompt", "Antwort": "output"},
    ),
    "nested": ([{"x": {"q": f"Who {k}?", "a": f"{k}."}} for k in range(3)], {"x.q": "question", "x.a": "answer"}),
    "mapped turns": (
        [{"chat": [*TALK, said("user", f"{k}?"), said("assistant", "I.")]} for k in "abc"],
        {"chat": "messages"},
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_prompt_is_that_of_training(name, tmp_path, tokenizer):
    rows, columns = FORMATS[name]
    file = write(tmp_path, rows)
    messages = convert(read_files([file]), "sft", columns=columns)[0]["messages"]
    option = "" if columns is None else "?columns=" + ",".join(f"{ours}:{name}" for ours, name in columns.items())
    (task,) = load_suite(f"{file}{option}", "chat").tasks.values()
    options = {"tokenize": False, "add_generation_prompt": True}

    def template(turns, add_generation_prompt):
        return render_chat(partial(tokenizer.apply_chat_template, **options), turns)

    task.build_all_requests(apply_chat_template=True, fewshot_as_multiturn=True, chat_template=template)
    prompts = [instance.args[0] for instance in task.instances]
    assert prompts == [tokenizer.apply_chat_template(turns[:-1], **options) for turns in messages]
    assert len(set(prompts)) == len(rows)
    assert [task.doc_to_target(doc) for doc in task.task_docs] == [turns[-1]["content"] for turns in messages]


def test_an_input_follows_the_instruction(tmp_path):
    """The form itself, in case the reading of training changes."""
    (row, *_) = read_held_out(write(tmp_path, FORMATS["alpaca"][0]))
    assert row == {"answers": ["0."], "target": "0.", "question": "Name it.\n\nIt is 0."}


def test_a_plain_prompt_has_all_turns(tmp_path):
    file = write(tmp_path, FORMATS["messages"][0])
    (task,) = load_suite(f"{file}?num_fewshot=1", "plain").tasks.values()
    task.set_fewshot_seed(0)
    task.build_all_requests()
    prompt, talk = task.instances[0].args[0], "Question: Hi.\nAnswer: Hello.\n\n"
    assert prompt.startswith(f"Be brief.\n\n{talk}Question: ") and prompt.endswith(f"I.\n\n{talk}Question: a?\nAnswer:")
    assert prompt.count("Be brief.") == 1 and prompt.count("a?") == 1


def test_conversations_are_evaluated(tmp_path, model, tokenizer):
    file = write(tmp_path, [row | {"id": k, "cluster": "c"} for k, row in enumerate(FORMATS["messages"][0])])
    for format in ("plain", "chat"):
        spec = f"{file}?max_gen_toks=4&num_fewshot=1"
        record = evaluate("unsaved", spec, format, tmp_path / format, loaded=(model, tokenizer))
        assert [(row["metric"], row["n"]) for row in record["tasks"]] == [("exact_match", 3)]


def test_choices_are_asked_about_their_passage(tmp_path):
    rows = [{"question": "Which?", "context": f"It is {k}.", "choices": ["a", "b"], "answer": k} for k in "ab"]
    (task,) = load_suite(str(write(tmp_path, rows)), "chat").tasks.values()
    assert [task.doc_to_text(doc) for doc in task.task_docs] == ["It is a.\n\nWhich?", "It is b.\n\nWhich?"]
    assert [task.doc_to_target(doc) for doc in task.task_docs] == [0, 1]


def test_answers_that_are_objects_are_no_messages(tmp_path):
    rows = [{"question": "Who?", "answer": [{"value": "I"}, {"text": ["me"]}]}, {"question": "You?", "answer": "No."}]
    assert [row["answers"] for row in read_held_out(write(tmp_path, rows))] == [["I", "me"], ["No."]]
    turns = [{"prompt": [{"a": 1}], "answer": "I"}, {"prompt": "Who?", "answer": "I"}]
    with pytest.raises(UserError, match="question must be text, not a list"):
        read_held_out(write(tmp_path, turns))


def test_several_right_answers_stay(tmp_path):
    row = {"question": "Who?", "context": "I did.", "answers": {"text": ["I", "me"], "answer_start": [0, 0]}}
    (read,) = read_held_out(write(tmp_path, [row]))
    assert read["answers"] == ["I", "me"] and read["question"] == "I did.\n\nWho?"


LEFT_OUT = [{"question": "Who?", "facts": f"Guest {k} slept.", "answer": f"{k}."} for k in range(3)]


@pytest.mark.parametrize("request_column", ["question", "prompt"])
def test_a_column_that_differs_and_would_not_be_shown_is_refused(request_column, tmp_path):
    reply = {"question": "answer", "prompt": "completion"}[request_column]
    rows = [{request_column: row["question"], "facts": row["facts"], reply: row["answer"]} for row in LEFT_OUT]
    file = write(tmp_path, rows)
    with pytest.raises(UserError, match="the column facts differs by row") as refused:
        read_held_out(file)
    show, leave = [f"{file}?columns=facts:{name}" for name in ("context", "data_facts")]
    assert show in refused.value.fix and leave in refused.value.fix
    texts = {}
    for spec in (show, leave):
        (task,) = load_suite(spec, "chat").tasks.values()
        texts[spec] = [task.doc_to_text(doc) for doc in task.task_docs]
    assert texts[show][1] == "Guest 1 slept.\n\nWho?" and texts[leave][1] == "Who?"


def test_a_column_that_is_the_same_or_in_the_question_is_no_reason_to_refuse(tmp_path, caplog):
    same = [row | {"facts": "All slept."} for row in LEFT_OUT]
    read_held_out(write(tmp_path, same))
    assert "without facts" in caplog.text
    repeated = [row | {"question": f"{row['facts']} Who?"} for row in LEFT_OUT]
    assert read_held_out(write(tmp_path, repeated))[1]["question"] == "Guest 1 slept. Who?"
    whole = [row | {"text": f"{row['instruction']} {row['input']} {row['output']}"} for row in FORMATS["alpaca"][0]]
    assert len(read_held_out(write(tmp_path, whole))) == 3


def test_a_file_of_neither_kind_has_a_fix_that_works(tmp_path):
    file = write(tmp_path, [{"request": f"What is {k}?", "reply": f"{k}."} for k in range(3)])
    with pytest.raises(UserError, match="no column with the question and answer") as refused:
        read_held_out(file)
    spec = refused.value.fix.partition("--suite '")[2].partition("'")[0]
    (task,) = load_suite(spec, "chat").tasks.values()
    assert task.doc_to_text(task.task_docs[0]) == "What is 0?" and task.doc_to_target(task.task_docs[0]) == "0."


def test_rows_that_training_drops_are_named(tmp_path, caplog):
    rows = [*FORMATS["alpaca"][0], {"instruction": "Name it.", "input": "", "output": ""}]
    assert len(read_held_out(write(tmp_path, rows))) == 3
    assert "1 dropped (1 empty reply: row 4)" in caplog.text


def test_long_answers_have_a_hint(tmp_path, caplog):
    read_held_out(write(tmp_path, [{"prompt": f"{k}?", "completion": "word " * 50} for k in range(3)]))
    assert "3 of 3 answers are longer than 40 words" in caplog.text


def test_a_warning_is_said_once(tmp_path, model, tokenizer, caplog):
    row = {"question": "Who?", "answer": "I", "facts": "I did."}
    specs = [str(write(tmp_path, [row] * 2))]
    caplog.set_level(logging.WARNING)
    options = {"stage": "sft", "loaded": (model, tokenizer), "limit": 1}
    evaluate_many("unsaved", specs, ["plain", "chat"], tmp_path / "evals", **options)
    assert caplog.text.count("without facts") == 1
    evaluate_many("unsaved", specs, ["plain"], tmp_path / "other", **options)
    assert caplog.text.count("without facts") == 2  # another call has not said so


def test_columns_as_an_option(tmp_path):
    file = write(tmp_path, [{"Frage": "Wer?", "Antwort": "I"}])
    for given in ("{Frage: question, Antwort: answer}", '{"Frage": "question", "Antwort": "answer"}'):
        (spec, gsm) = with_columns([str(file), "gsm8k"], given)
        assert gsm == "gsm8k" and suite_name(spec) == "held-out"
        (task,) = load_suite(spec, "plain").tasks.values()
        assert task.doc_to_text(task.task_docs[0]) == "Question: Wer?\nAnswer:"
    assert with_columns([spec], "{Frage: prompt}") == [spec]  # its own
    assert with_columns([f"{file}?match=exact"], "{a & b: prompt}")[0].startswith(f"{file}?match=exact&columns=")
    with pytest.raises(UserError, match="applies to files"):
        with_columns(["gsm8k"], "{Frage: question}")
    for wrong in ("Frage", "{Frage: 3}", "{}", ""):
        with pytest.raises(UserError, match="columns of it cannot take"):
            parse_columns(wrong, "it")
    with pytest.raises(UserError, match="did you mean Frage"):
        load_suite(f"{file}?columns=Fragen:question,Antwort:answer", "plain")


def test_the_digest_is_of_the_mapping_too(tmp_path):
    file = write(tmp_path, [{"q": f"{k}?", "other": f"{k}!", "a": f"{k}."} for k in range(3)])
    digests = {suite_digest(load_suite(f"{file}?columns={name}:question,a:answer", "plain")) for name in ("q", "other")}
    assert len(digests) == 2


def test_eval_takes_columns_and_names_the_commonest_answer(checkpoints, tmp_path, capsys):
    file = write(tmp_path, [{"Frage": f"Wer {k}?", "Antwort": "I."} for k in range(2)])
    arguments = [str(checkpoints / "sft/checkpoint"), "--suite", f"{file}?max_gen_toks=4", "--format", "plain"]
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    arguments += ["--columns", "{Frage: question, Antwort: answer}", "--output_dir", str(tmp_path / "evals")]
    assert verb.main(parser.parse_args(arguments)) == 0
    out = capsys.readouterr().out
    assert "commonest answer would score, in held-out-max_gen_toks-4: held-out 1.0000 ('I.')" in out
    assert f"{tmp_path / 'evals'}/sft-held-out-max_gen_toks-4-plain/items.parquet" in out

"""Chat format where a side has no template: asked in another's template, or left out and said."""

import json

import pytest
from saved_adapters import save_adapter

import align
from alignment.errors import UserError
from eval.harness.run_suite import evaluate
from eval.harness.store import load_run, template_digest

SLOW = pytest.mark.slow
OTHER = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}#\n{% endfor %}[assistant] "


@pytest.fixture(scope="module")
def place(tmp_path_factory, model, tokenizer):
    """A base without a template, an adapter with one, a model with another, and templates as files."""
    folder = tmp_path_factory.mktemp("templates")
    model.save_pretrained(folder / "base")
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        tokenizer.save_pretrained(folder / "base")
    finally:
        tokenizer.chat_template = template
    save_adapter(folder / "base", tokenizer, folder / "adapter")
    model.save_pretrained(folder / "tuned")
    tokenizer.save_pretrained(folder / "tuned")
    (folder / "own.jinja").write_text(template)
    (folder / "other.jinja").write_text(OTHER)
    (folder / "broken.jinja").write_text("{% for m in messages %}")
    (folder / "latin.jinja").write_bytes("{# caf\u00e9 #}".encode("latin-1") + OTHER.encode())
    (folder / "divides.jinja").write_text("{{ 1 // 0 }}")
    (folder / "sums.jsonl").write_text('{"question": "One plus one?", "answer": "2"}\n')
    return folder


@pytest.fixture
def run(place, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(place)

    def run(*arguments, code=0):
        found = align.main([*arguments])
        said = capsys.readouterr()
        assert found == code, said
        return said.out + said.err + caplog.text

    return run


def records(folder):
    return {file.parent.name: json.loads(file.read_text()) for file in folder.glob("*/run.json")}


@pytest.mark.parametrize("source", ["adapter", *(pytest.param(one, marks=SLOW) for one in ("tuned", "own.jinja"))])
def test_the_base_is_asked_in_the_template_of(source, run, place, tmp_path, tokenizer):
    out = str(tmp_path)
    run("eval", "base", "--suite", "sums.jsonl", "--format", "chat", "--output_dir", out, "--chat_template", source)
    run("eval", "tuned", "--suite", "sums.jsonl", "--format", "chat", "--output_dir", out)
    base, tuned = (load_run(tmp_path / name) for name in sorted(records(tmp_path)))
    assert base.record["template_digest"] == tuned.record["template_digest"] == template_digest(tokenizer)
    assert list(base.items["prompt"]) == list(tuned.items["prompt"])
    assert "<|im_start|>user" in base.items["prompt"][0]
    said = run("compare", str(base.path), str(tuned.path))
    assert "base -> tuned" in said and "chat" in said


@SLOW
def test_its_own_template_is_no_other_run(run, tmp_path):
    run("eval", "tuned", "--suite", "sums.jsonl", "--output_dir", str(tmp_path), "--chat_template", "tuned")
    assert set(records(tmp_path)) == {"tuned-sums-chat", "tuned-sums-plain"}


@SLOW
def test_two_templates_are_two_runs_and_pairs_have_the_same(run, tmp_path):
    """Of the base's two runs in chat, the one in the other side's template is compared."""
    out = str(tmp_path / "base")
    for source in ("other.jinja", "adapter"):
        run("eval", "base", "--suite", "sums.jsonl", "--format", "chat", "--output_dir", out, "--chat_template", source)
    assert len(records(tmp_path / "base")) == 2
    run("eval", "tuned", "--suite", "sums.jsonl", "--format", "chat", "--output_dir", str(tmp_path / "tuned"))
    for sides in (("base", "tuned"), ("tuned", "base")):
        assert "chat" in run("compare", *(str(tmp_path / side) for side in sides))


def test_with_base(run, tmp_path):
    said = run(
        "eval", "adapter", "--suite", "sums.jsonl", "--with-base", "--output_dir", str(tmp_path),
        "--chat_template", "adapter",
    )  # fmt: skip
    found = records(tmp_path)
    assert sorted((one["stage"], one["format"]) for one in found.values()) == [
        ("adapter", "chat"), ("adapter", "plain"), ("base", "chat"), ("base", "plain"),
    ]  # fmt: skip
    rows = [line.split() for line in said.splitlines() if "exact_match" in line]
    assert [row[0] for row in rows] == ["adapter", "adapter", "base", "base"], "the table names the model of each row"


def test_compare_evaluates_both_in_the_template(run, tmp_path, monkeypatch):
    said = run("compare", "base", "adapter", "--suite", "sums.jsonl", "--chat_template", "adapter")
    assert len([line for line in said.splitlines() if "exact_match" in line]) == 2
    assert "not compared" not in said


@pytest.mark.parametrize("verb", ["eval", "compare", pytest.param("with-base", marks=SLOW)])
def test_both_formats_without_a_template_is_the_possible_one(verb, run, tmp_path):
    arguments = {
        "eval": ("eval", "base", "--suite", "sums.jsonl", "--output_dir", str(tmp_path)),
        "with-base": ("eval", "adapter", "--with-base", "--suite", "sums.jsonl", "--output_dir", str(tmp_path)),
        "compare": ("compare", "base", "tuned", "--suite", "sums.jsonl", "--format", "both"),
    }
    said = run(*arguments[verb])
    assert "no chat template" in said and "--chat_template" in said and "base" in said
    assert "exact_match" in said


MISTAKES = {
    "chat without a template": (("--format", "chat"), "chat template"),
    "a template in plain format": (("--format", "plain", "--chat_template", "own.jinja"), "--chat_template"),
    "no such file": (("--chat_template", "nowhere.jinja"), "nowhere.jinja"),
    "a folder without a template": (("--chat_template", "base"), "base"),
    "another file": (("--chat_template", "sums.jsonl"), "sums.jsonl"),
    "broken Jinja": (("--chat_template", "broken.jinja"), "broken.jinja"),
    "a template that fails": (("--chat_template", "divides.jinja"), "divides.jinja"),
    "a template in Latin-1": (("--chat_template", "latin.jinja"), "latin.jinja is not UTF-8"),
}


@pytest.mark.parametrize(("arguments", "word"), MISTAKES.values(), ids=MISTAKES)
def test_is_refused(arguments, word, run, tmp_path):
    said = run("eval", "base", "--suite", "sums.jsonl", "--output_dir", str(tmp_path), *arguments, code=2)
    assert word in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_template_in_any_encoding_with_a_mark(encoding, tmp_path):
    from eval.conditions.chat_template import template_of

    (tmp_path / "t.jinja").write_bytes(OTHER.encode(encoding))
    assert template_of(str(tmp_path / "t.jinja")) == OTHER


@pytest.mark.parametrize("end", ["<|im_end|>", "<END>"])
def test_a_reply_ends_where_the_template_ends_a_turn(end, model, tokenizer, tmp_path, suite):
    """At a token of the vocabulary, or at the text of an end that is none."""
    written = f"{{% for m in messages %}}{{{{ m['role'] }}}}: {{{{ m['content'] }}}}{end}\n{{% endfor %}}assistant:"
    (tmp_path / "t.jinja").write_text(written)
    from eval.conditions.chat_template import reply_ends, with_template

    asked = with_template(tokenizer, str(tmp_path / "t.jinja"))
    ids, texts = reply_ends(asked)
    assert (tokenizer.convert_ids_to_tokens(ids), texts) == (
        (["<|im_end|>"], []) if end == "<|im_end|>" else ([], [end])
    )
    assert tokenizer.chat_template != written, "the tokenizer that was given stays as it is"


def test_the_raw_reply_is_kept_beside_the_extracted_answer(model, tokenizer, tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        '{"question": "red hat", "answer": "7"}\n{"question": "blue", "answer": "8"}\n'
    )
    (tmp_path / "own.yaml").write_text(
        f"""task: own
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 12}}
metric_list: [{{metric: exact_match}}]
filter_list:
  - {{name: digits, filter: [{{function: regex, regex_pattern: "(\\\\d+)"}}, {{function: take_first}}]}}
  - {{name: letters, filter: [{{function: regex, regex_pattern: "([a-z]+)"}}, {{function: take_first}}]}}
"""
    )
    evaluate("m", str(tmp_path / "own.yaml"), "plain", tmp_path / "run", loaded=(model, tokenizer))
    items = load_run(tmp_path / "run").items
    assert len(items) == 4
    for _, rows in items.groupby("item_id"):
        assert rows["raw_output"].nunique() == 1 and rows["output"].nunique() == 2
        assert len(rows["raw_output"].iloc[0]) > len(rows["output"].iloc[0])
    with pytest.raises(UserError):
        evaluate("m", str(tmp_path / "own.yaml"), "plain", tmp_path / "run", too_long="perhaps")

"""A task's description in the chat format, with templates that have a system role, refuse it, or ignore it."""

import json

import pandas
import pytest

from alignment.errors import UserError
from eval.harness.lm import CausalLM
from eval.harness.run_suite import evaluate
from eval.harness.suite import load_suite

DESCRIPTION = "Answer with one digit."
TURN = "<|im_start|>{role}\n{content}<|im_end|>\n"
BODY = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
END = "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}" + BODY + END
)
TEMPLATES = {
    "system": "{% for m in messages %}" + BODY + END,
    "refusing": REFUSING + "{% for m in messages %}" + BODY + END,
    "alternating": ALTERNATING,
    "ignoring": "{% for m in messages if m['role'] != 'system' %}" + BODY + END,
    "stripping": REFUSING + "{% for m in messages %}" + BODY.replace("m['content']", "m['content'] | trim") + END,
    "own prefix": (
        "{% if messages[0]['role'] == 'system' %}{% set p = messages[0]['content'] | trim + '\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set p = '' %}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ (p if loop.first else '') + m['content'] }}<|im_end|>\n"
        + END
    ),
}
TASK = {
    "task": "sums",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
QUESTIONS = [{"question": f"{n} plus one?", "answer": f"{n + 1}"} for n in range(4)]


def suite_in(folder, rows=QUESTIONS, **settings):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / "sums.yaml"
    data = {"data_files": {"test": str(folder / "rows.jsonl")}}
    file.write_text(json.dumps(TASK | {"description": DESCRIPTION, "dataset_kwargs": data} | settings))
    return file


@pytest.fixture
def prompts_of(tokenizer, model, monkeypatch):
    """The prompts of a suite's items with a chat template."""

    def prompts(spec, template):
        monkeypatch.setattr(tokenizer, "chat_template", template)
        lm = CausalLM(model, tokenizer, 4)
        (task,) = load_suite(str(spec), "chat").tasks.values()
        task.set_fewshot_seed(0)
        options = {"apply_chat_template": True, "fewshot_as_multiturn": True}
        task.build_all_requests(chat_template=lm.apply_chat_template, **options)
        return [instance.args[0] for instance in task.instances]

    return prompts


def turn(role, content):
    return TURN.format(role=role, content=content)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_description_stands_in_the_prompt(name, prompts_of, tmp_path):
    found = prompts_of(suite_in(tmp_path), TEMPLATES[name])
    merged = turn("user", f"{DESCRIPTION}\n\n0 plus one?")
    with_system = turn("system", DESCRIPTION) + turn("user", "0 plus one?")
    assert found[0] == (with_system if name == "system" else merged) + "<|im_start|>assistant\n"
    assert all(prompt.count(DESCRIPTION) == 1 for prompt in found)


@pytest.mark.parametrize("name", ["system", "stripping"])
@pytest.mark.parametrize("description", ["Digits only:\n", "{{question[0]}} is a digit. ", '\u00dcber "alles" & <b>.'])
def test_descriptions_of_any_form(name, description, prompts_of, tmp_path):
    found = prompts_of(suite_in(tmp_path, description=description), TEMPLATES[name])
    for row, prompt in zip(QUESTIONS, found, strict=True):
        shown = description.replace("{{question[0]}}", row["question"][0]).strip()
        assert prompt.count(shown) == 1 and prompt.index(shown) < prompt.index(row["question"])


@pytest.mark.parametrize("name", ["refusing", "alternating", "ignoring"])
def test_few_shot_examples_follow_the_description(name, prompts_of, tmp_path):
    for prompt in prompts_of(f"{suite_in(tmp_path)}?num_fewshot=2", TEMPLATES[name]):
        assert prompt.count(DESCRIPTION) == 1
        assert prompt.count("<|im_start|>user") == 3 and prompt.count("<|im_start|>assistant") == 3
        assert prompt.index(DESCRIPTION) < prompt.index("plus one?")


@pytest.mark.parametrize(("name", "description"), [("alternating", ""), ("refusing", "  \n"), ("own prefix", "")])
def test_without_a_description_prompts_are_those_of_lm_eval(name, description, prompts_of, tmp_path, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    spec = suite_in(tmp_path, description=description)
    found = prompts_of(f"{spec}?num_fewshot=1", TEMPLATES[name])
    monkeypatch.setattr(CausalLM, "apply_chat_template", HFLM.apply_chat_template)
    assert found == prompts_of(f"{spec}?num_fewshot=1", TEMPLATES[name])


def test_a_template_with_a_system_role_gives_lm_evals_prompts(prompts_of, tmp_path, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    spec = f"{suite_in(tmp_path)}?num_fewshot=2"
    found = prompts_of(spec, TEMPLATES["system"])
    monkeypatch.setattr(CausalLM, "apply_chat_template", HFLM.apply_chat_template)
    assert found == prompts_of(spec, TEMPLATES["system"])


def test_choices_have_the_description_too(prompts_of, tmp_path):
    rows = [row | {"options": ["1", "2"]} for row in QUESTIONS[:2]]
    settings = {"output_type": "multiple_choice", "doc_to_choice": "options", "doc_to_target": "{{answer}}"}
    settings |= {"metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}
    rows = [row | {"answer": options} for row, options in zip(rows, (0, 1), strict=True)]
    found = prompts_of(suite_in(tmp_path, rows, **settings, generation_kwargs=None), TEMPLATES["refusing"])
    assert len(found) == 4 and all(DESCRIPTION in prompt for prompt in found)


def test_a_template_that_shows_nothing_of_it_is_named(prompts_of, tmp_path, caplog):
    upper = "{% for m in messages %}" + BODY.replace("m['content']", "m['content'] | upper") + END
    prompts_of(suite_in(tmp_path), upper)
    assert f"does not show a task's description: {DESCRIPTION}" in caplog.text


def test_a_template_that_refuses_every_prompt(prompts_of, tmp_path):
    with pytest.raises(UserError, match="cannot render") as raised:
        prompts_of(suite_in(tmp_path), "{{ raise_exception('only tools') }}")
    assert "only tools" in str(raised.value) and "--format plain" in str(raised.value)


def test_the_description_is_kept_with_the_items(tokenizer, model, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATES["refusing"])
    evaluate("unsaved", str(suite_in(tmp_path)), "chat", tmp_path / "run", loaded=(model, tokenizer))
    assert all(DESCRIPTION in prompt for prompt in pandas.read_parquet(tmp_path / "run/items.parquet")["prompt"])

"""A child trains with its parent's tokenizer and template, unless its recipe asks for others."""

from types import SimpleNamespace

import ppo_tiny as tiny
import pytest
import tiny_stages

from alignment.errors import UserError
from alignment.stages import dpo, ppo, reward, sft
from alignment.stages.shared.inherited import require_inherited

ASKS_NOTHING = SimpleNamespace(chat_template_path=None, eos_token=None)


@pytest.fixture
def parent(tmp_path) -> str:
    tiny.tokenizer().save_pretrained(tmp_path)
    return str(tmp_path)


def with_template(tokenizer):
    tokenizer.chat_template = "{{ messages }}"


def with_another_end(tokenizer):
    tokenizer.eos_token = "w3"


def with_more_tokens(tokenizer):
    tokenizer.add_tokens(["w99"])


DRIFTS = [(with_template, "chat template"), (with_another_end, "EOS token"), (with_more_tokens, "vocabulary")]


def test_the_parents_own_is_accepted(parent):
    tokenizer = tiny.tokenizer()
    tokenizer("w1 w2", padding="max_length", max_length=9, truncation=True)  # leaves traces in the tokenizer
    require_inherited(tokenizer, parent, ASKS_NOTHING)


@pytest.mark.parametrize(("change", "part"), DRIFTS)
def test_drift_is_an_error(parent, change, part):
    tokenizer = tiny.tokenizer()
    change(tokenizer)
    with pytest.raises(UserError, match=f"another {part}"):
        require_inherited(tokenizer, parent, ASKS_NOTHING)


@pytest.mark.parametrize(("change", "part"), DRIFTS)
def test_what_the_recipe_asks_for_is_no_drift(parent, change, part):
    tokenizer = tiny.tokenizer()
    change(tokenizer)
    require_inherited(tokenizer, parent, SimpleNamespace(chat_template_path="chat.jinja", eos_token=None))
    if part == "EOS token":
        require_inherited(tokenizer, parent, SimpleNamespace(eos_token="w3"))
    else:
        with pytest.raises(UserError, match=f"another {part}"):
            require_inherited(tokenizer, parent, SimpleNamespace(eos_token="w3"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_stages.make(tmp_path_factory.mktemp("stages"))


@pytest.mark.parametrize("stage", [sft, reward, dpo, ppo])
def test_no_stage_trains_with_another_tokenizer(stage, folder, tmp_path, monkeypatch):
    name, load = stage.__name__.rpartition(".")[2], stage.load_tokenizer

    def load_another(checkpoint):
        tokenizer = load(checkpoint)
        tokenizer.chat_template = "{# another #}" + tokenizer.chat_template
        return tokenizer

    monkeypatch.setattr(stage, "load_tokenizer", load_another)
    with pytest.raises(UserError, match="another chat template than"):
        tiny_stages.run(name, folder, tmp_path / name)
    assert not (tmp_path / name / "metrics.jsonl").read_text()

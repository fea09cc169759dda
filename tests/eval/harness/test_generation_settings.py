"""Settings of foreign checkpoints' generation_config.json: a reply, or a UserError that names the settings."""

import copy

import pytest
from lm_eval.api.instance import Instance

from alignment.cli.inspect.chat import Chat
from alignment.errors import UserError
from eval.generation.generate import Sampling, generate
from eval.harness.lm import CausalLM

SETTINGS = [
    {"return_dict_in_generate": True},
    {"return_dict_in_generate": True, "output_scores": True},
    {"num_return_sequences": 2},
    {"num_return_sequences": 2, "num_beams": 2},
    {"num_beams": 3},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"stop_strings": ["a"]},
    {"temperature": 0.0, "do_sample": True},
    {"temperature": "hot", "do_sample": True},
    {"top_k": -1, "do_sample": True},
    {"eos_token_id": 99999},
    {"eos_token_id": None},
    {"eos_token_id": []},
    {"suppress_tokens": [99999]},
    {"pad_token_id": -1},
    {"dola_layers": "low"},
    {"prompt_lookup_num_tokens": 3},
    {"guidance_scale": 1.5},
    {"max_length": 3},
    {"min_length": 500},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    {"forced_bos_token_id": 5, "forced_eos_token_id": 6},
]
PROMPTS = ["red hat", "", "the goat saw a boat"]


@pytest.fixture
def configured(model):
    def configure(settings):
        changed = copy.deepcopy(model)
        vars(changed.generation_config).update(settings)
        return changed

    return configure


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_suite_is_answered_or_the_settings_are_named(settings, configured, tokenizer):
    lm = CausalLM(configured(settings), tokenizer, 4)
    options = {"until": ["\n"], "max_gen_toks": 4}
    requests = [
        Instance(request_type="generate_until", doc={}, arguments=(text, options), idx=0, metadata=("t", place, 1))
        for place, text in enumerate(PROMPTS)
    ]
    try:
        assert len(lm.generate_until(requests)) == len(PROMPTS)
    except UserError as error:
        assert any(name in str(error) for name in settings)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_chat_uses_what_is_recommended_or_names_it(settings, configured, tokenizer, capsys):
    chat = Chat(configured(settings), tokenizer, 0.7, 4, recommended=True)
    try:
        chat.answer("hi")
    except UserError as error:
        assert any(name in str(error) for name in settings)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sampling_takes_no_setting_but_the_end_of_a_reply(settings, configured, model, tokenizer):
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS if text]
    sampling = Sampling(max_new_tokens=4)
    found = generate(configured(settings), tokenizer, prompts, sampling)
    if "eos_token_id" not in settings:
        assert found == generate(model, tokenizer, prompts, sampling)


def test_errors_that_are_not_about_settings_stay(model, tokenizer, monkeypatch):
    lm = CausalLM(model, tokenizer, 4)

    def broken(*_, **__):
        raise IndexError("a defect")

    monkeypatch.setattr(model, "generate", broken)
    with pytest.raises(IndexError, match="a defect"):
        lm.reply([[5, 6]], {"until": [], "max_gen_toks": 4, "do_sample": False})

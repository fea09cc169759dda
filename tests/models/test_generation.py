"""Generation settings that a checkpoint carries, generation without them, and the tokens that end a reply."""

import logging
from types import SimpleNamespace

import base_models
import ppo_tiny as tiny
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig, LlamaConfig, trainer_utils

from alignment.check.origin import other_ids
from alignment.models.generation import (
    agree_with_generation,
    end_token_ids,
    other_token_ids,
    own_settings,
    plain_generation,
    set_token_ids,
)

LEAKY = {
    "repetition_penalty": 5.0,
    "min_new_tokens": 5,
    "top_k": 1,
    "top_p": 0.1,
    "temperature": 0.2,
    "no_repeat_ngram_size": 2,
    "suppress_tokens": [6, 7],
    "begin_suppress_tokens": [8],
    "bad_words_ids": [[9]],
    "forced_eos_token_id": 0,
    "sequence_bias": [[[10], 4.0]],
    "length_penalty": 2.0,
    "num_beams": 2,
    "max_time": 0.0,
    "stop_strings": ["w1"],
    "custom": 3,
}
IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])


def generated(model, **options):
    torch.manual_seed(0)
    return model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=8, top_k=0, **options).tolist()


def adapted(model):
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False)).eval()


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("wrap", [lambda model: model, adapted])
def test_no_setting_of_the_checkpoint_changes_what_is_generated(wrap, do_sample):
    expected = generated(wrap(tiny.model(seed=1)), do_sample=do_sample)
    model = wrap(tiny.model(seed=1))
    vars(model.generation_config).update(LEAKY)
    before = dict(vars(model.generation_config))
    with plain_generation(model):
        assert generated(model, do_sample=do_sample) == expected
    assert vars(model.generation_config) == before


def test_token_ids_stay_and_those_set_within_are_kept():
    model = tiny.model()
    model.generation_config = GenerationConfig(eos_token_id=[2, 3], pad_token_id=1, repetition_penalty=5.0)
    with pytest.raises(ZeroDivisionError), plain_generation(model):
        assert model.generation_config.eos_token_id == [2, 3] and model.generation_config.pad_token_id == 1
        assert model.generation_config.repetition_penalty is None
        model.generation_config.eos_token_id = [4]
        raise ZeroDivisionError
    assert model.generation_config.eos_token_id == [4] and model.generation_config.repetition_penalty == 5.0


@pytest.mark.parametrize("name", sorted(LEAKY))
def test_a_setting_that_changes_tokens_is_named(name):
    config = GenerationConfig(eos_token_id=0, pad_token_id=0, bos_token_id=0)
    vars(config)[name] = LEAKY[name]
    assert own_settings(config) == {name: LEAKY[name]}


def test_neutral_settings_are_not_named():
    neutral = {"repetition_penalty": 1.0, "temperature": 1.0, "top_k": 0, "num_beams": 1, "min_length": 0}
    harmless = {"use_cache": False, "max_length": 99, "max_new_tokens": 3, "output_scores": True, "do_sample": False}
    assert own_settings(GenerationConfig(**neutral, **harmless)) == {}


@pytest.mark.parametrize(
    ("configured", "eos", "expected"), [([7, 2], 3, [2, 3, 7]), (2, 2, [2]), (None, 3, [3]), (4, None, [4])]
)
def test_a_reply_ends_at_the_configured_tokens_and_the_eos_token(configured, eos, expected):
    model = SimpleNamespace(generation_config=GenerationConfig(eos_token_id=configured))
    assert end_token_ids(model, SimpleNamespace(eos_token_id=eos)) == expected


@pytest.mark.parametrize("in_config", [None, 2, [2, 5]])
@pytest.mark.parametrize("in_generation", [None, 2, [2, 5], [1, 2], False])
def test_token_ids_are_set_as_the_trainer_would_which_then_has_nothing_to_report(in_config, in_generation, monkeypatch):
    tokenizer = base_models.tokenizer(pad_token="<s>")
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id

    def model():
        generation = None if in_generation is False else GenerationConfig(eos_token_id=in_generation)
        return SimpleNamespace(config=LlamaConfig(eos_token_id=in_config, bos_token_id=9), generation_config=generation)

    def ids(found):
        configs = [one for one in (found.config, found.generation_config) if one is not None]
        eos = [one.eos_token_id if isinstance(one.eos_token_id, list) else [one.eos_token_id] for one in configs]
        return [set(one) for one in eos], [(one.bos_token_id, one.pad_token_id) for one in configs]

    own, theirs = model(), model()
    said = []
    monkeypatch.setattr(logging.getLogger(trainer_utils.__name__), "warning", said.append)
    trainer_utils.align_special_tokens(theirs, tokenizer)
    assert said
    set_token_ids(own, tokenizer)
    assert ids(own) == ids(theirs) and ids(own)[1][0] == (bos, bos) and eos in ids(own)[0][0]
    said.clear()
    trainer_utils.align_special_tokens(own, tokenizer)
    assert not said and ids(own) == ids(theirs)


def test_other_ids_of_a_config_are_described():
    words = base_models.tokenizer()
    config = LlamaConfig(bos_token_id=0, eos_token_id=[2, 3])
    (found,) = other_token_ids(config, words)
    assert found.startswith("eos_token is 2 (") and found.endswith("in config.json, 1 ('</s>') in the tokenizer")
    assert not [*other_token_ids(LlamaConfig(bos_token_id=None, eos_token_id=[5, 1]), words)]


def test_a_foreign_model_whose_files_name_other_tokens_is_reported(tmp_path):
    folder = base_models.llama(tmp_path / "base")
    (found,) = other_ids(str(folder), base_models.tokenizer())
    assert found.severity == "warning" and "eos_token is 2 (" in found.got and "tokenizer's" in found.expected
    config = LlamaConfig.from_pretrained(folder)
    config.bos_token_id, config.eos_token_id = 0, 1
    config.save_pretrained(folder)
    assert other_ids(str(folder), base_models.tokenizer()) == [] == other_ids("a/hub-id", base_models.tokenizer())


def test_a_config_that_is_saved_agrees_with_the_generation_config():
    config = LlamaConfig(bos_token_id=1, eos_token_id=2, pad_token_id=7)
    model = SimpleNamespace(config=config, generation_config=GenerationConfig(bos_token_id=0, eos_token_id=[1, 2]))
    agree_with_generation(model)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, [1, 2], 7)

"""Recipe keys of an adapter: each trains what it says, or is refused before training."""

import base_models
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from trl import SFTConfig, SFTTrainer

from alignment.errors import UserError
from alignment.models.loading import load_causal_lm, load_tokenizer, load_trainable
from alignment.models.merging import merge
from alignment.stages import CAUSAL_LM, CLASSIFIER
from alignment.stages.shared.lora import ModelArguments, check_adapter, expose_head_bias, starting_point
from alignment.stages.shared.saving import save_checkpoint
from alignment.tokenization.base import make_chat_ready

IDS = torch.tensor([[5, 6, 3, 7, 9]])


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {tied: str(base_models.llama(folder / f"tied-{tied}", 8, tied)) for tied in (False, True)}


def arguments(base, **keys):
    return ModelArguments(model_name_or_path=base, **{"use_peft": True, "lora_r": 2, "lora_dropout": 0.0} | keys)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"lora_r": 0}, "lora_r"),
        ({"lora_r": -1}, "lora_r"),
        ({"lora_r": 10**9}, "lora_r"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"lora_alpha": -8}, "lora_alpha"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"lora_dropout": 2.0}, "lora_dropout"),
        ({"lora_dropout": -0.1}, "lora_dropout"),
        ({"lora_dropout": float("nan")}, "lora_dropout"),
        ({"lora_task_type": "UNHEARD"}, "lora_task_type"),
        ({"lora_task_type": "SEQ_CLS"}, "lora_task_type"),
        ({"lora_target_modules": []}, "lora_target_modules"),
        ({"lora_target_modules": ["unheard"]}, "unheard"),
        ({"lora_target_modules": ["q_proj", "unheard"]}, "unheard"),
        ({"lora_target_modules": ["(("]}, "regular expression"),
        ({"lora_target_modules": ["norm"]}, "PEFT does not take"),
        ({"lora_target_modules": ["lm_head"]}, "lora_modules_to_save"),
        ({"lora_target_modules": ["embed_tokens"]}, "lora_modules_to_save"),
        ({"lora_target_modules": ["q_proj"], "lora_modules_to_save": ["q_proj"]}, "PEFT does not take"),
        ({"lora_modules_to_save": ["unheard"]}, "unheard"),
        ({"lora_modules_to_save": ["lm_head", "wte"]}, "wte"),
        ({"lora_target_parameters": ["experts.unheard"]}, "experts.unheard"),
        ({"init_lora_weights": "orthogonal", "lora_r": 3}, "even"),
        ({"init_lora_weights": "unheard"}, "init_lora_weights"),
        ({"loraplus_lr_ratio": 0.0}, "loraplus_lr_ratio"),
        ({"loraplus_lr_ratio": float("inf")}, "loraplus_lr_ratio"),
        ({"dtype": "float8"}, "dtype"),
        ({"dtype": "int8"}, "dtype"),
        ({"dtype": "unheard"}, "dtype"),
        ({"bnb_4bit_quant_type": "nf5"}, "bnb_4bit_quant_type"),
        ({"bnb_4bit_quant_storage": "unheard"}, "bnb_4bit_quant_storage"),
    ],
)
def test_an_impossible_key_is_refused_before_training(keys, said, bases):
    with pytest.raises(UserError) as raised:
        check_adapter(arguments(bases[False], **keys), "sft")
    assert said in str(raised.value)


def test_impossible_values_are_reported_together(bases):
    with pytest.raises(UserError) as raised:
        arguments(bases[False], lora_r=0, lora_alpha=0, dtype="float8")
    assert all(key in str(raised.value) for key in ("lora_r", "lora_alpha", "dtype"))


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "pissa"},
        {"lora_target_modules": ["all-linear"]},
        {"lora_target_modules": [".*q_proj"]},
        {"lora_modules_to_save": ["embed_tokens", "lm_head"]},
        {"lora_modules_to_save": ["norm"]},
    ],
)
def test_a_possible_key_passes_and_the_check_draws_no_random_number(keys, bases):
    before = torch.get_rng_state()
    check_adapter(arguments(bases[False], **keys), "sft")
    assert torch.equal(torch.get_rng_state(), before)


def trained(base, tmp_path, **keys):
    """A model after a step of TRL's trainer, which gives it the adapter; and the ids of its rows before."""
    model_args = arguments(base, **keys)
    check_adapter(model_args, "sft")
    words = load_tokenizer(base)
    make_chat_ready(words, None, None)
    start = starting_point(model_args, {"dtype": "float32"}, words, CAUSAL_LM, tmp_path, len(words))
    args = SFTConfig(
        str(tmp_path / "trainer"),
        max_steps=2,
        learning_rate=0.1,
        per_device_train_batch_size=2,
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        gradient_checkpointing=False,
    )
    rows = Dataset.from_list([{"input_ids": IDS[0].tolist(), "labels": IDS[0].tolist()}] * 4)
    trainer = SFTTrainer(
        start.model, args=args, train_dataset=rows, processing_class=words, peft_config=start.peft_config
    )
    expose_head_bias(trainer.model)
    trainer.train()
    return trainer.model.eval(), words


@pytest.mark.parametrize(
    ("tied", "saved"),
    [(False, ["embed_tokens", "lm_head"]), (True, ["model.embed_tokens"]), (True, ["lm_head"])],
)
def test_modules_saved_as_a_whole_are_trained_saved_and_merged(tied, saved, bases, tmp_path):
    model, words = trained(bases[tied], tmp_path, lora_modules_to_save=saved)
    base = load_trainable(bases[tied], CAUSAL_LM)
    ends = {"embed_tokens": model.get_input_embeddings(), "lm_head": model.get_output_embeddings()}
    for name in saved:
        now, before = ends[name.rpartition(".")[2]].weight, base.get_input_embeddings().weight
        before = before if "embed" in name else base.get_output_embeddings().weight
        assert not torch.equal(now[5], before[5]), name
    if tied:
        assert torch.equal(ends["embed_tokens"].weight, ends["lm_head"].weight)
    expected = model(IDS).logits
    model.peft_config["default"].base_model_name_or_path = bases[tied]
    save_checkpoint(model, words, tmp_path / "run/sft/checkpoint")
    loaded = load_causal_lm(str(tmp_path / "run/sft/checkpoint"))[0](IDS).logits
    torch.testing.assert_close(
        loaded[..., : expected.shape[-1]], expected[..., : loaded.shape[-1]], rtol=1e-4, atol=1e-4
    )
    merge(tmp_path / "run/sft/checkpoint", tmp_path / "merged", "float32")
    again = load_causal_lm(str(tmp_path / "merged"))[0](IDS).logits
    torch.testing.assert_close(again, loaded, rtol=1e-4, atol=1e-4)


def test_rows_of_the_template_s_tokens_are_trained_in_the_other_layer(bases, tmp_path):
    """With the embeddings saved whole, the output layer's rows still are trained; and the other way round."""
    words = load_tokenizer(bases[False])
    make_chat_ready(words, None, None)
    for saved, other in (["embed_tokens"], "lm_head"), (["lm_head"], "embed_tokens"):
        keys = arguments(bases[False], lora_modules_to_save=saved)
        start = starting_point(keys, {"dtype": "float32"}, words, CAUSAL_LM, tmp_path)
        assert list(start.peft_config.trainable_token_indices) == [other]


def test_a_reward_model_keeps_the_modules_that_the_recipe_saves(bases, tmp_path):
    words = load_tokenizer(bases[False])
    keys = arguments(bases[False], lora_modules_to_save=["embed_tokens"])
    check_adapter(keys, "reward")
    start = starting_point(keys, {"dtype": "float32"}, words, CLASSIFIER, tmp_path)
    assert start.peft_config.modules_to_save == ["score", "embed_tokens"]
    with pytest.raises(UserError, match="lm_head"):
        check_adapter(arguments(bases[False], lora_modules_to_save=["lm_head"]), "reward")


def test_a_reward_model_begins_with_the_whole_of_an_adapter(bases, tmp_path):
    """The causal LM's embeddings, trained as a whole, pass to the classifier's adapter; its output layer does not."""
    model, words = trained(bases[False], tmp_path, lora_modules_to_save=["embed_tokens", "lm_head"])
    model.peft_config["default"].base_model_name_or_path = bases[False]
    save_checkpoint(model, words, tmp_path / "run/sft/checkpoint")
    reward = load_trainable(str(tmp_path / "run/sft/checkpoint"), CLASSIFIER)
    assert isinstance(reward, PeftModel)
    weights = [one.get_input_embeddings().weight for one in (model, reward)]
    assert torch.equal(*weights)
    assert not any("lm_head" in name for name, _ in reward.named_parameters())
    with pytest.raises(UserError, match="stacked"):
        keys = {"adapter_mode": "stack"}
        check_adapter(arguments(str(tmp_path / "run/sft/checkpoint"), **keys), "dpo")

"""A reward model whose head is not in its file is refused, wherever it is loaded: its scores would be random."""

import shutil

import broken_checkpoints as broken
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification

from alignment.errors import UserError
from alignment.models.loading import load_trainable
from alignment.trainers.ppo.scorers import load_scorer
from reward_models.ensembles import ensemble
from reward_models.learned import load_members, reward

SEQ_CLS = LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS")
IDS = torch.tensor([[5, 6, 3, 7, 9]])


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = broken.make_parts(tmp_path_factory.mktemp("parts"))
    broken.save_adapter(folder / "adapter", folder / "base", SEQ_CLS, "sequence-classification")
    return folder


@pytest.fixture
def folder(parts, tmp_path):
    return shutil.copytree(parts / "reward", tmp_path / "reward")


@pytest.mark.parametrize("case", broken.REWARDS)
def test_a_head_is_its_file_s_or_refused(case, folder):
    change, said = broken.REWARDS[case]
    change(folder)
    if said is None:
        plain = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
        torch.testing.assert_close(reward(str(folder)).model.eval()(IDS).logits, plain(IDS).logits, rtol=0, atol=0)
        return
    with pytest.raises(UserError) as raised:
        reward(str(folder))
    assert said in str(raised.value)


@pytest.mark.parametrize("place", ["member", "ensemble", "scorer", "training"])
def test_every_place_that_loads_a_scorer_refuses_a_missing_head(place, folder, parts):
    intact = str(parts / "reward")
    load = {
        "member": lambda name: load_members([intact, name]),
        "ensemble": lambda name: ensemble([intact, name]),
        "scorer": lambda name: load_scorer(name, load_trainable(str(parts / "base"), "causal-lm"), "reward"),
        "training": lambda name: load_trainable(name, "sequence-classification"),
    }[place]
    load(str(folder))
    broken.dropped("score")(folder)
    with pytest.raises(UserError, match="score"):
        load(str(folder))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (broken.dropped("score", broken.ADAPTER), "score"),
        (broken.one("score", lambda x: x.repeat(2, 1), broken.ADAPTER), "score"),
        (broken.one("score", lambda x: x * broken.NAN, broken.ADAPTER), "NaN"),
        (broken.dropped("lora_A", broken.ADAPTER), "does not fit its base"),
        (broken.adapter_settings(task_type="CAUSAL_LM"), "reward model"),
        (broken.adapter_settings(task_type=None), "reward model"),
        (broken.adapter_settings(base_model_name_or_path=None), "base_model_name_or_path"),
        (broken.without(broken.ADAPTER), "no weights"),
    ],
)
@pytest.mark.parametrize("position", ["first", "second"])
def test_an_adapter_s_head_is_its_file_s_or_refused(change, said, position, parts, tmp_path):
    intact, folder = str(parts / "adapter"), shutil.copytree(parts / "adapter", tmp_path / "adapter")
    others = [intact] if position == "second" else []  # which holds the base that the members share
    load_members([*others, str(folder)])
    change(folder)
    with pytest.raises(UserError) as raised:
        load_members([*others, str(folder)])
    assert said in str(raised.value)


def test_a_causal_lm_begins_a_reward_model_with_a_new_head(parts):
    model = load_trainable(str(parts / "base"), "sequence-classification")
    assert model.score.weight.shape == (1, 32)
    with pytest.raises(UserError, match="reward model"):
        reward(str(parts / "base"))

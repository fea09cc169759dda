"""The self-check: it sees each planted fault and names it, holds on sound stages, and changes nothing."""

import json
from contextlib import nullcontext

import ppo_tiny as tiny
import pytest
import tiny_stages
import torch
from check_cases import foreign_tokenizer
from datasets import Dataset
from peft import get_peft_model
from shipped_templates import SHIPPED, classifier
from transformers import LlamaForCausalLM

from alignment.errors import UserError
from alignment.stages.self_check import losses, policies, rewards
from alignment.stages.self_check.check import Outcome, moved_weights, self_check
from alignment.stages.self_check.untouched import is_plain
from alignment.trainers import ppo_models, ppo_rollout
from alignment.trainers.ppo_critics import ModelScorer
from alignment.trainers.ppo_rewards import Reading
from alignment.trainers.ppo_trainer import PPOTrainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_stages.make(tmp_path_factory.mktemp("parents"))


@pytest.mark.parametrize("name", ["pretrain", "sft-lora", "reward", "dpo", "ppo", "grpo"])
def test_a_stage_ends_with_the_same_bits_whether_it_checks_itself_or_not(name, folder, tmp_path):
    record = tiny_stages.run(name, folder, tmp_path / "with")["self_check"]
    assert record["checks"] and all(one["difference"] <= one["tolerance"] for one in record["checks"])
    assert tiny_stages.run(name, folder, tmp_path / "without", self_check=False)["self_check"] is None
    both = [tmp_path / "with", tmp_path / "without"]
    assert tiny_stages.same(*map(tiny_stages.weights, both))
    assert untimed(tiny_stages.metrics(both[0])) == untimed(tiny_stages.metrics(both[1]))


def untimed(log: list[dict]) -> list[dict]:
    timed = ("time", "seconds", "per_second")
    return [{key: value for key, value in line.items() if not any(word in key for word in timed)} for line in log]


def test_a_model_that_is_not_what_its_stage_left_is_seen(folder, tmp_path):
    tiny_stages.run("sft", folder, tmp_path / "sft")
    checkpoint = tmp_path / "sft/checkpoint"
    parent = {"model_name_or_path": str(checkpoint)}
    record = tiny_stages.run("dpo", folder, tmp_path / "dpo", **parent)["self_check"]
    assert record["checks"][0]["name"] == "starts from its parent"
    stage = json.loads((tmp_path / "sft/stage.json").read_text())
    stage["probe"]["log_probs"][1] += 0.01
    (tmp_path / "sft/stage.json").write_text(json.dumps(stage))
    with pytest.raises(UserError, match="not the one that its checkpoint holds"):
        tiny_stages.run("dpo", folder, tmp_path / "other", **parent)


def trainer(path, **options):
    run = tiny.trainer(path, **options)
    run.args.self_check = True
    return run


TALKS = Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in tiny.prompts()["prompt"]]})


def ppo(path, reward=None, **options):
    judge = tiny.model(head="score", seed=1) if reward is None else reward
    arguments = {"per_device_eval_batch_size": 2, **options.pop("arguments", {})}
    return trainer(path, reward_funcs=judge, dataset=TALKS, arguments=arguments, **options)


def names(record) -> set[str]:
    return {one["name"].rpartition("LlamaForSequenceClassification")[2].strip() for one in record["checks"]}


@pytest.mark.parametrize("policy", ["whole", "new-adapter", "continued-adapter"])
@pytest.mark.parametrize(("sampler", "bf16"), [("generate", False), ("generate", True), ("continuous_batching", False)])
def test_a_sound_ppo_holds(policy, sampler, bf16, tmp_path):
    options = {"peft_config": tiny.lora()} if policy == "new-adapter" else {}
    if policy == "continued-adapter":
        options["policy"] = tiny.sft_adapter()
    record = self_check(
        ppo(tmp_path, arguments={"sampler": sampler, "bf16": bf16}, **options), [policies.ppo_checks(None)]
    )
    assert names(record) == {
        "sampler = trained weights",
        "trained weights matter",
        "ratio 1",
        "KL 0",
        "reference stays",
        "of a completion alone = in its batch",
        "read where it was trained",
        "tells completions apart",
    }


SCORES = ModelScorer.scores


def nothing_alone(self, batch, pad_token_id):
    return SCORES(self, batch, pad_token_id) * (len(batch["input_ids"]) > 1)


def without_adapter(model, prompts, log_probs=False, **options):
    """The base under a new adapter samples."""
    layers = [module for module in model.modules() if isinstance(getattr(module, "scaling", None), dict)]
    before = [module.scaling for module in layers]
    for module in layers:
        module.scaling = dict.fromkeys(module.scaling, 0.0)
    try:
        return ppo_rollout.sample(model, prompts, log_probs=True, **options)
    finally:
        for module, scaling in zip(layers, before, strict=True):
            module.scaling = scaling


def unmasked(model, batch, temperature):
    seen = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    return ppo_models.completion_logits(model, seen, temperature)


FAULTS = {
    "the score of a small batch is 0": (ModelScorer, "scores", nothing_alone, "depends on what else is in the batch"),
    "the base samples": (policies, "SAMPLERS", {"generate": without_adapter}, "sampled from other weights"),
    "padding is seen by the policy": (policies, "completion_logits", unmasked, "not those that the rollout recorded"),
    "the reference is the policy": (
        ppo_models.Reference,
        "active",
        lambda self: nullcontext(self.policy),
        "moves with the policy",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_of_ppo_is_seen(name, tmp_path, monkeypatch):
    place, attribute, faulty, says = FAULTS[name]
    run = ppo(tmp_path, peft_config=tiny.lora())
    monkeypatch.setattr(place, attribute, faulty)
    with pytest.raises(UserError, match=says):
        self_check(run, [policies.ppo_checks(None)])


def test_a_reference_that_is_the_base_of_a_continued_adapter_is_seen(tmp_path):
    run = ppo(tmp_path, policy=tiny.sft_adapter())
    run.reference.adapter = None
    with pytest.raises(UserError, match="another model than the one that training starts from"):
        self_check(run, [policies.ppo_checks(None)])


def test_a_reward_that_is_read_at_the_end_of_turn_where_a_newline_was_trained_is_seen(tmp_path, monkeypatch):
    tokenizer = foreign_tokenizer(SHIPPED["chatml"])
    judge = classifier(tokenizer)
    prompts = [[{"role": "user", "content": text}] for text in ("zebra", "river stone", "lamp", "kite and door")]

    def make():
        config, data = tiny.config(tmp_path, max_completion_length=8), Dataset.from_dict({"prompt": prompts})
        run = PPOTrainer(LlamaForCausalLM(judge.config), judge, config, data, processing_class=tokenizer)
        run.args.self_check = True
        return run

    assert "read where it was trained" in names(self_check(make(), [policies.ppo_checks(None)]))
    monkeypatch.setattr(Reading, "rows", lambda self, samples: samples.rollout.token_ids)
    with pytest.raises(UserError, match="read at another token"):
        self_check(make(), [policies.ppo_checks(None)])


def test_a_reward_model_that_scores_all_alike_is_refused_and_a_silent_rule_warned_of(tmp_path, caplog):
    judge = tiny.model(head="score")
    judge.score.weight.data.zero_()
    with pytest.raises(UserError, match="gives every completion the same score, 0"):
        self_check(ppo(tmp_path, judge), [policies.ppo_checks(None)])

    def never(completions, **columns):
        return [0.0] * len(completions)

    self_check(ppo(tmp_path, [never, tiny.length_reward]), [policies.ppo_checks(None)])
    assert "never gave 0 to each of 4 first completions" in caplog.text and "length_reward gave" not in caplog.text


def run_with(fault, name, folder, tmp_path, monkeypatch, **keys):
    monkeypatch.setattr(*fault)
    return tiny_stages.run(name, folder, tmp_path / name, **keys)


def test_a_loss_that_is_not_its_rows_is_seen(folder, tmp_path, monkeypatch):
    from trl import SFTTrainer

    whole = SFTTrainer.compute_loss

    def shifted(self, model, inputs, *args, **kwargs):
        return whole(self, model, {**inputs, "labels": inputs["labels"].roll(1, 1)}, *args, **kwargs)

    with pytest.raises(UserError, match="not that of its rows, each read alone"):
        run_with((SFTTrainer, "compute_loss", shifted), "sft", folder, tmp_path, monkeypatch)


def test_documents_that_read_each_other_are_seen(folder, tmp_path, monkeypatch):
    from alignment.trainers.pretrain_trainer import PretrainTrainer

    whole = PretrainTrainer.compute_loss

    def leaking(self, model, inputs, *args, **kwargs):
        places = torch.arange(inputs["input_ids"].shape[1]).expand_as(inputs["input_ids"])
        return whole(self, model, {**inputs, "position_ids": places}, *args, **kwargs)

    with pytest.raises(UserError, match="not that of its rows, each read alone"):
        run_with((PretrainTrainer, "compute_loss", leaking), "pretrain", folder, tmp_path, monkeypatch, max_length=64)


def test_labels_other_than_those_shown_are_seen(folder, tmp_path, monkeypatch):
    shown = losses.encode_conversation

    def all_learned(*arguments):
        found = shown(*arguments)
        return type(found)(found.row, found.ids, [True] * len(found.ids))

    with pytest.raises(UserError, match="not those that align check shows"):
        run_with((losses, "encode_conversation", all_learned), "sft", folder, tmp_path, monkeypatch)


def test_chosen_and_rejected_in_each_others_place_are_seen(folder, tmp_path, monkeypatch):
    from trl import RewardTrainer

    whole = RewardTrainer.compute_loss

    def swapped(self, model, inputs, *args, **kwargs):
        half = len(inputs["input_ids"]) // 2
        mixed = {key: torch.cat([value[half:], value[:half]]) for key, value in inputs.items()}
        return whole(self, model, mixed, *args, **kwargs)

    with pytest.raises(UserError, match="not that of its pairs"):
        run_with((RewardTrainer, "compute_loss", swapped), "reward", folder, tmp_path, monkeypatch)


def test_a_reference_of_dpo_that_is_another_model_is_seen(folder, tmp_path, monkeypatch):
    from alignment.stages import dpo

    load = dpo.load_trainable

    def other(*arguments, **options):
        model = load(*arguments, **options)
        model.lm_head.weight.data *= 1.5
        return model

    with pytest.raises(UserError, match="reference is not the model that training starts from"):
        run_with((dpo, "load_trainable", other), "dpo", folder, tmp_path, monkeypatch)


def test_weights_are_moved_and_put_back_to_the_bit():
    model = get_peft_model(tiny.model(), tiny.lora())
    before = tiny.weights(model)
    with moved_weights(model):
        inside = tiny.weights(model)
    assert tiny.same_weights(before, tiny.weights(model))
    moved = {name for name in before if not torch.equal(before[name], inside[name])}
    assert moved == {name for name in before if "lora_" in name}


def test_what_does_not_hold_is_told_together_and_nan_never_holds():
    assert not Outcome("a", float("nan"), 1.0).holds and Outcome("b", 1.0, 1.0).holds
    assert "self_check: false" in str(Outcome("a", 2.0, 1.0, failure="it fails").error)


def test_a_trainers_counts_are_told_from_its_models():
    assert is_plain({"a": [1, 2.0, None]}) and not is_plain({"a": [torch.ones(1)]}) and not is_plain(json)


def test_differences_of_scores():
    nan = float("nan")
    assert rewards.largest(torch.tensor([1.0, nan]), torch.tensor([1.5, nan])) == 0.5
    assert rewards.largest(torch.tensor([1.0, nan]), torch.tensor([1.0, 2.0])) == float("inf")
    assert rewards.scale(torch.tensor([nan, -3.0])) == 3.0

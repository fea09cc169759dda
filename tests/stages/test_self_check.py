"""The self-check: it finds and names each planted fault, passes on sound stages, and changes nothing."""

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
from alignment.stages.self_check import loss_checks, policy_checks, reward_checks
from alignment.stages.self_check.prove import Outcome, moved_weights, self_check
from alignment.stages.self_check.untouched import is_plain
from alignment.trainers.ppo import models, rollout
from alignment.trainers.ppo.rewards import Reading
from alignment.trainers.ppo.scorers import ModelScorer
from alignment.trainers.ppo.trainer import PPOTrainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_stages.make(tmp_path_factory.mktemp("parents"))


@pytest.mark.parametrize("name", ["pretrain", "sft-lora", "reward", "dpo", "kto", "ppo", "grpo"])
def test_a_stage_ends_with_the_same_bits_whether_it_checks_itself_or_not(name, folder, tmp_path):
    record = tiny_stages.run(name, folder, tmp_path / "with")["self_check"]
    assert record["checks"] and all(check["difference"] <= check["tolerance"] for check in record["checks"])
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
    with pytest.raises(UserError, match="differs from its checkpoint"):
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
    return {one["name"].removeprefix("LlamaForSequenceClassification ") for one in record["checks"]}


@pytest.mark.parametrize("policy", ["whole", "new-adapter", "continued-adapter"])
@pytest.mark.parametrize(("sampler", "bf16"), [("generate", False), ("generate", True), ("continuous_batching", False)])
def test_a_sound_ppo_holds(policy, sampler, bf16, tmp_path):
    options = {"peft_config": tiny.lora()} if policy == "new-adapter" else {}
    if policy == "continued-adapter":
        options["policy"] = tiny.sft_adapter()
    record = self_check(
        ppo(tmp_path, arguments={"sampler": sampler, "bf16": bf16}, **options), [policy_checks.ppo_checks(None)]
    )
    assert names(record) == {
        "sampler = trained weights",
        "trained weights matter",
        "ratio 1",
        "KL 0",
        "reference stays",
        "of a completion alone = in its batch",
        "read at its trained token",
        "distinguishes completions",
    }


SCORES = ModelScorer.scores


def nothing_alone(self, batch, pad_token_id):
    return SCORES(self, batch, pad_token_id) * (len(batch["input_ids"]) > 1)


def without_adapter(model, prompts, log_probs=False, **options):
    """Sample from the base, without the new adapter."""
    layers = [module for module in model.modules() if isinstance(getattr(module, "scaling", None), dict)]
    before = [module.scaling for module in layers]
    for module in layers:
        module.scaling = dict.fromkeys(module.scaling, 0.0)
    try:
        return rollout.sample(model, prompts, log_probs=True, **options)
    finally:
        for module, scaling in zip(layers, before, strict=True):
            module.scaling = scaling


def unmasked(model, batch, temperature):
    seen = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    return models.completion_logits(model, seen, temperature)


FAULTS = {
    "the score of a small batch is 0": (ModelScorer, "scores", nothing_alone, "depends on what else is in the batch"),
    "the base samples": (policy_checks, "SAMPLERS", {"generate": without_adapter}, "sampled from other weights"),
    "padding is seen by the policy": (
        policy_checks,
        "completion_logits",
        unmasked,
        "differ from those that the rollout recorded",
    ),
    "the reference is the policy": (
        models.Reference,
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
        self_check(run, [policy_checks.ppo_checks(None)])


def test_a_reference_that_is_the_base_of_a_continued_adapter_is_seen(tmp_path):
    run = ppo(tmp_path, policy=tiny.sft_adapter())
    run.reference.adapter = None
    with pytest.raises(UserError, match="another model than the one that training starts from"):
        self_check(run, [policy_checks.ppo_checks(None)])


def test_a_reward_that_is_read_at_the_end_of_turn_where_a_newline_was_trained_is_seen(tmp_path, monkeypatch):
    tokenizer = foreign_tokenizer(SHIPPED["chatml"])
    judge = classifier(tokenizer)
    prompts = [[{"role": "user", "content": text}] for text in ("zebra", "river stone", "lamp", "kite and door")]

    def make():
        config, data = tiny.config(tmp_path, max_completion_length=8), Dataset.from_dict({"prompt": prompts})
        run = PPOTrainer(LlamaForCausalLM(judge.config), judge, config, data, processing_class=tokenizer)
        run.args.self_check = True
        return run

    assert "read at its trained token" in names(self_check(make(), [policy_checks.ppo_checks(None)]))
    monkeypatch.setattr(Reading, "rows", lambda self, samples: samples.rollout.token_ids)
    with pytest.raises(UserError, match="read at another token"):
        self_check(make(), [policy_checks.ppo_checks(None)])


def test_a_reward_model_that_scores_all_alike_is_refused_and_a_silent_rule_warned_of(tmp_path, caplog):
    judge = tiny.model(head="score")
    judge.score.weight.data.zero_()
    with pytest.raises(UserError, match="gives every completion the same score, 0"):
        self_check(ppo(tmp_path, judge), [policy_checks.ppo_checks(None)])

    def never(completions, **columns):
        return [0.0] * len(completions)

    self_check(ppo(tmp_path, [never, tiny.length_reward]), [policy_checks.ppo_checks(None)])
    assert "never gave 0 to each of the first 4 completions" in caplog.text and "length_reward gave" not in caplog.text


def run_with(fault, name, folder, tmp_path, monkeypatch, **keys):
    monkeypatch.setattr(*fault)
    return tiny_stages.run(name, folder, tmp_path / name, **keys)


def test_a_loss_that_is_not_its_rows_is_seen(folder, tmp_path, monkeypatch):
    from trl import SFTTrainer

    whole = SFTTrainer.compute_loss

    def shifted(self, model, inputs, *args, **kwargs):
        return whole(self, model, {**inputs, "labels": inputs["labels"].roll(1, 1)}, *args, **kwargs)

    with pytest.raises(UserError, match="differs from that of its rows, each read alone"):
        run_with((SFTTrainer, "compute_loss", shifted), "sft", folder, tmp_path, monkeypatch)


def test_documents_that_read_each_other_are_seen(folder, tmp_path, monkeypatch):
    from alignment.trainers.pretrain.trainer import PretrainTrainer

    whole = PretrainTrainer.compute_loss

    def leaking(self, model, inputs, *args, **kwargs):
        places = torch.arange(inputs["input_ids"].shape[1]).expand_as(inputs["input_ids"])
        return whole(self, model, {**inputs, "position_ids": places}, *args, **kwargs)

    with pytest.raises(UserError, match="differs from that of its rows, each read alone"):
        run_with((PretrainTrainer, "compute_loss", leaking), "pretrain", folder, tmp_path, monkeypatch, max_length=64)


def test_labels_other_than_those_shown_are_seen(folder, tmp_path, monkeypatch):
    shown = loss_checks.encode_turns

    def all_learned(*arguments):
        return [type(found)(found.row, found.ids, [True] * len(found.ids)) for found in shown(*arguments)]

    with pytest.raises(UserError, match="differ from those that align check shows"):
        run_with((loss_checks, "encode_turns", all_learned), "sft", folder, tmp_path, monkeypatch)


def test_chosen_and_rejected_in_each_others_place_are_seen(folder, tmp_path, monkeypatch):
    from trl import RewardTrainer

    whole = RewardTrainer.compute_loss

    def swapped(self, model, inputs, *args, **kwargs):
        half = len(inputs["input_ids"]) // 2
        mixed = {key: torch.cat([value[half:], value[:half]]) for key, value in inputs.items()}
        return whole(self, model, mixed, *args, **kwargs)

    with pytest.raises(UserError, match="differs from that of its pairs"):
        run_with((RewardTrainer, "compute_loss", swapped), "reward", folder, tmp_path, monkeypatch)


def test_a_reference_of_dpo_that_is_another_model_is_seen(folder, tmp_path, monkeypatch):
    from alignment.stages.shared import reference

    load = reference.load_trainable

    def other(*arguments, **options):
        model = load(*arguments, **options)
        model.lm_head.weight.data *= 1.5
        return model

    with pytest.raises(UserError, match="reference differs from the model that training starts from"):
        run_with((reference, "load_trainable", other), "dpo", folder, tmp_path, monkeypatch)


def test_weights_are_moved_and_put_back_to_the_bit():
    model = get_peft_model(tiny.model(), tiny.lora())
    before = tiny.weights(model)
    with moved_weights(model):
        inside = tiny.weights(model)
    assert tiny.same_weights(before, tiny.weights(model))
    moved = {name for name in before if not torch.equal(before[name], inside[name])}
    assert moved == {name for name in before if "lora_" in name}


def test_nan_never_holds_and_the_error_names_the_key():
    assert not Outcome("a", float("nan"), 1.0).holds and Outcome("b", 1.0, 1.0).holds
    assert "self_check: false" in str(Outcome("a", 2.0, 1.0, failure="it fails").error)


def test_counters_of_a_trainer_are_distinguished_from_its_models():
    assert is_plain({"a": [1, 2.0, None]}) and not is_plain({"a": [torch.ones(1)]}) and not is_plain(json)


def test_differences_of_scores():
    nan = float("nan")
    assert reward_checks.largest(torch.tensor([1.0, nan]), torch.tensor([1.5, nan])) == 0.5
    assert reward_checks.largest(torch.tensor([1.0, nan]), torch.tensor([1.0, 2.0])) == float("inf")
    assert reward_checks.scale(torch.tensor([nan, -3.0])) == 3.0


# ---- Faults and sound settings found by an adversarial review ----


def test_rows_that_trl_leaves_out_are_passed_over(folder, tmp_path):
    """TRL drops rows whose prompt exceeds max_length, and pairs with a reply beyond it."""
    rows = [json.loads(line) for line in (folder / "sft.jsonl").read_text().splitlines()]
    rows[1]["messages"][0]["content"] = tiny_stages.words(1, 60)
    tiny_stages.write_rows(tmp_path / "sft.jsonl", rows)
    data = {"dataset_name": str(tmp_path / "sft.jsonl"), "max_length": 40}
    assert tiny_stages.run("sft", folder, tmp_path / "sft", **data)["self_check"]
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    pairs[1]["chosen"][0]["content"] = pairs[1]["rejected"][0]["content"] = tiny_stages.words(1, 60)
    tiny_stages.write_rows(tmp_path / "pairs.jsonl", pairs)
    data = {"dataset_name": str(tmp_path / "pairs.jsonl"), "max_length": 40}
    record = tiny_stages.run("reward", folder, tmp_path / "reward", **data)["self_check"]
    assert "4 rows as align check shows them" in [check["name"] for check in record["checks"]]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("sft", {"label_smoothing_factor": 0.1}),
        ("sft", {"loss_type": "dft"}),
        ("sft", {"packing": True}),
        ("sft", {"assistant_only_loss": False}),
        ("dpo", {"beta": 0.0}),
        ("dpo", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        ("dpo", {"precompute_ref_log_probs": True}),
        ("grpo", {"mask_truncated_completions": True, "max_completion_length": 40}),
    ],
)
def test_sound_settings_hold(name, keys, folder, tmp_path):
    assert tiny_stages.run(name, folder, tmp_path / name, **keys)["self_check"]["checks"]


def test_labels_of_packed_rows_are_looked_at(folder, tmp_path, monkeypatch):
    from alignment.stages import sft

    make = sft.make_trainer

    def all_learned(*arguments):
        trainer, *others = make(*arguments)
        trainer.train_dataset = trainer.train_dataset.map(lambda row: {"labels": row["input_ids"]})
        return trainer, *others

    with pytest.raises(UserError, match="differ from those that align check shows"):
        run_with((sft, "make_trainer", all_learned), "sft", folder, tmp_path, monkeypatch, packing=True)


@pytest.mark.parametrize("fault", ["swapped", "prompt learned"])
def test_replies_of_dpo_that_are_not_its_rows_are_seen(fault, folder, tmp_path, monkeypatch):
    from trl import DPOTrainer

    whole = DPOTrainer.compute_loss

    def faulty(self, model, inputs, *args, **kwargs):
        if fault == "swapped":
            halves = {key: value.chunk(2) for key, value in inputs.items()}
            inputs = {key: torch.cat([second, first]) for key, (first, second) in halves.items()}
        else:
            inputs = {**inputs, "completion_mask": inputs["attention_mask"]}
        return whole(self, model, inputs, *args, **kwargs)

    with pytest.raises(UserError, match="log-probabilities of the chosen replies differ"):
        run_with((DPOTrainer, "compute_loss", faulty), "dpo", folder, tmp_path, monkeypatch)


def grpo_with(folder, tmp_path, monkeypatch, change, **keys):
    from alignment.stages import grpo

    make = grpo.make_trainer

    def changed(*arguments):
        trainer = make(*arguments)
        change(trainer)
        return trainer

    return run_with((grpo, "make_trainer", changed), "grpo", folder, tmp_path, monkeypatch, **keys)


def test_grpo_that_samples_from_the_base_is_seen(folder, tmp_path, monkeypatch):
    def ignore_adapter(trainer):
        generate = trainer._generate_single_turn

        def from_base(*args, **kwargs):
            with trainer.accelerator.unwrap_model(trainer.model).disable_adapter():
                return generate(*args, **kwargs)

        trainer._generate_single_turn = from_base

    with pytest.raises(UserError, match="sampled from other weights"):
        grpo_with(folder, tmp_path, monkeypatch, ignore_adapter, use_peft=True, lora_r=4)


def test_a_reference_of_grpo_that_is_the_policy_is_seen(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="moves with the policy"):
        grpo_with(folder, tmp_path, monkeypatch, lambda trainer: setattr(trainer, "ref_model", trainer.model))


def test_a_reward_adapter_on_the_policys_base_that_is_read_elsewhere_is_seen(tmp_path, monkeypatch):
    from alignment.trainers.ppo import scorers

    base = tiny.model()
    base.save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    judge = get_peft_model(tiny.model(head="score"), tiny.lora_reward_model().peft_config["default"])
    judge = tiny.active(judge)
    judge.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    judge.save_pretrained(tmp_path / "judge")
    tiny.tokenizer().save_pretrained(tmp_path / "judge")
    policy = LlamaForCausalLM.from_pretrained(tmp_path / "base")

    def make():
        return ppo(tmp_path, str(tmp_path / "judge"), policy=get_peft_model(policy, tiny.lora()))

    assert any(
        "read at its trained token" in name for name in names(self_check(make(), [policy_checks.ppo_checks(None)]))
    )
    monkeypatch.setattr(scorers, "score_index", lambda ids, mask, pad: torch.full((len(ids),), ids.shape[1] - 2))
    with pytest.raises(UserError, match="read at another token"):
        self_check(make(), [policy_checks.ppo_checks(None)])


def test_a_function_that_depends_on_the_batch_is_warned_of(tmp_path, caplog):
    def rank(completions, completion_ids, **columns):
        order = sorted(range(len(completion_ids)), key=lambda index: (len(completion_ids[index]), index))
        return [float(order.index(index)) for index in range(len(completion_ids))]

    self_check(ppo(tmp_path, [rank, tiny.length_reward]), [policy_checks.ppo_checks(None)])
    assert "rank gives a completion alone another reward than in its batch" in caplog.text
    assert "length_reward gives" not in caplog.text


def test_a_mixture_of_experts_of_transformers_goes_from_sft_to_ppo_and_grpo(folder, tmp_path):
    from transformers import AutoConfig, MixtralConfig, MixtralForCausalLM

    tokenizer = AutoConfig.from_pretrained(folder / "base")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 2, "num_local_experts": 2, "max_position_embeddings": 128}
    ids = {key: getattr(tokenizer, key) for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    MixtralForCausalLM(MixtralConfig(**shape, **ids, output_router_logits=True)).save_pretrained(tmp_path / "base")
    for file in folder.glob("base/*token*"):
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    for file in folder.glob("base/*.jinja"):
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    parent = {"model_name_or_path": str(tmp_path / "base")}
    tiny_stages.run("ppo", folder, tmp_path / "ppo", max_steps=2, **parent)
    tiny_stages.run("sft", folder, tmp_path / "sft", max_steps=2, **{**parent, "router_aux_loss_coef": 0.01})

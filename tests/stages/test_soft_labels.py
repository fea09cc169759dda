"""`label_column`: the losses of DPO and of reward models with a probability per pair in place of its label."""

import pytest
import ragged
import stage_cases as cases
import torch
from compared import assert_close
from torch.nn.functional import logsigmoid

from alignment.errors import UserError, UserErrors
from alignment.models.loading import load_trainable
from alignment.report.first_screen.trained_on import data_text, training_data
from alignment.stages import dpo, reward
from alignment.trainers.soft_labels import with_soft_labels

CASE = cases.Case()
SOFT = [0.9, 0.5, 1.0, 0.7, 0.55, 0.0, 0.8, 0.65]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


def labelled(labels):
    return [row | {"preference": label} for row, label in zip(cases.preferences(), labels, strict=True)]


def both_labels(probability, logit):
    return -probability * logsigmoid(logit) - (1 - probability) * logsigmoid(-logit)


def dpo_trainer(rows, bases, out, setting=None, case=CASE, **keys):
    return cases.dpo_trainer(case, setting or cases.Setting(), bases, out, rows, **keys)


def reward_trainer(rows, bases, out, setting=None, case=CASE, **keys):
    setting = setting or cases.Setting()
    args = reward.RewardRecipe(str(out), **cases.KEYS | setting.keys() | {"max_length": 120} | keys)
    data = cases.data_of(out / "rows.jsonl", rows, reward.RewardArguments)
    return reward.make_trainer(args, data, cases.model_arguments(case, setting, bases, "score"), out)[0]


def dpo_losses(trainer):
    """The loss of each pair, each reply read alone."""
    losses = []
    for row in trainer.train_dataset:
        ratios = []
        for side in ("chosen_ids", "rejected_ids"):
            ids = (row["prompt_ids"], row[side])
            policy, reference = cases.reply_log_probs(trainer.model, *ids), cases.reference_log_probs(trainer, *ids)
            ratios.append(policy.sum() - reference.sum())
        losses.append(both_labels(row["preference"], trainer.args.beta * (ratios[0] - ratios[1])))
    return torch.stack(losses)


def reward_losses(trainer):
    losses = []
    for row in trainer.train_dataset:
        scores = [trainer.model(torch.tensor([row[side]])).logits[0, 0] for side in ("chosen_ids", "rejected_ids")]
        losses.append(both_labels(row["preference"], scores[0] - scores[1]))
    return torch.stack(losses)


STAGES = {"dpo": (dpo_trainer, dpo_losses), "reward": (reward_trainer, reward_losses)}


def with_column(trainer):
    """TRL's tokenized pairs with the labels under their own name, for the plain computation."""
    column = trainer.train_dataset["probability_of_chosen"]
    trainer.train_dataset = trainer.train_dataset.add_column("preference", list(column))
    return trainer


def test_the_loss_by_hand():
    """p = 0.75 and z = 2: 0.75 * 0.126928 + 0.25 * 2.126928; p = 0 and z = -1: log(1 + exp(-1))."""
    for probability, logit, expected in ((0.75, 2.0, 0.626928), (0.0, -1.0, 0.313262), (0.5, 0.0, 0.693147)):
        z = torch.tensor([logit])
        found = with_soft_labels(-logsigmoid(z).mean(), torch.tensor([1 - probability]), z)
        assert_close([found.item()], [expected], "the loss", 1e-6)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("micro_batch", "multiple", "adapter"),
    [(2, 16, True), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((8, None, False), (1, None, True)))],
)
def test_a_step_is_that_of_the_plain_loss_row_by_row(stage, micro_batch, multiple, adapter, bases, tmp_path):
    """With padding, micro-batches and adapters: the loss and the gradients."""
    make, losses = STAGES[stage]
    setting = cases.Setting(micro_batch, 1, multiple=multiple)
    case = cases.Case(adapter=adapter)
    rows = setting.arranged(labelled(SOFT))
    trainer = with_column(make(rows, bases, tmp_path, setting, case, label_column="preference", self_check=False))
    trainer.model.eval()
    cases.check_trainer(trainer, losses(trainer).mean())


def test_the_weight_of_the_loss_counts_for_both_labels(bases, tmp_path):
    keys = {"label_column": "preference", "loss_weights": [0.5], "self_check": False}
    trainer = with_column(dpo_trainer(labelled(SOFT), bases, tmp_path, cases.Setting(2), **keys))
    trainer.model.eval()
    cases.check_trainer(trainer, 0.5 * dpo_losses(trainer).mean())


def test_an_sft_term_stays_beside_the_soft_labels(bases, tmp_path):
    """The weighted sum of the soft loss, and of the mean over the tokens of the chosen replies."""
    losses = {"loss_type": ["sft", "sigmoid"], "loss_weights": [2.0, 0.5]}
    keys = {"label_column": "preference", "self_check": False} | losses
    trainer = with_column(dpo_trainer(labelled(SOFT), bases, tmp_path, cases.Setting(len(SOFT)), **keys))
    trainer.model.eval()
    chosen = [
        cases.reply_log_probs(trainer.model, row["prompt_ids"], row["chosen_ids"]) for row in trainer.train_dataset
    ]
    cases.check_trainer(trainer, 0.5 * dpo_losses(trainer).mean() - 2.0 * torch.cat(chosen).mean())


def trajectory(trainer):
    trainer.train()
    weights = torch.cat([one.detach().flatten() for one in trainer.model.parameters() if one.requires_grad])
    return weights, [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("stage", STAGES)
def test_certain_labels_train_as_no_labels_to_the_bit(stage, bases, tmp_path):
    make, keys = STAGES[stage][0], {"max_steps": 3, "learning_rate": 0.01}
    plain = trajectory(make(cases.preferences(), bases, tmp_path / "plain", **keys))
    soft = trajectory(make(labelled([1.0] * 8), bases, tmp_path / "soft", label_column="preference", **keys))
    assert torch.equal(plain[0], soft[0]) and plain[1] == soft[1]


@pytest.mark.slow
def test_one_probability_for_all_trains_as_label_smoothing(bases, tmp_path):
    """TRL has the smoothed loss under the name `aot`, which sorts a micro-batch: with one row it is this loss."""
    keys = {"max_steps": 3, "learning_rate": 0.01}
    keys |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    smooth = dpo_trainer(
        cases.preferences(), bases, tmp_path / "smooth", loss_type=["aot"], label_smoothing=0.2, **keys
    )
    soft = dpo_trainer(labelled([0.8] * 8), bases, tmp_path / "soft", label_column="preference", **keys)
    smooth, soft = trajectory(smooth), trajectory(soft)
    plain = trajectory(dpo_trainer(cases.preferences(), bases, tmp_path / "plain", **keys))
    assert_close(soft[1], smooth[1], "losses", 1e-5)
    torch.testing.assert_close(soft[0], smooth[0], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(soft[0], plain[0], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_references_that_are_computed_once_give_the_same_losses(bases, tmp_path):
    data, found = cases.data_of(tmp_path / "rows.jsonl", labelled(SOFT)), []
    for once in (False, True):
        keys = {"label_column": "preference", "max_steps": 3, "learning_rate": 0.01, "precompute_ref_log_probs": once}
        args = dpo.DPORecipe(str(tmp_path / "own"), **cases.KEYS | {"max_length": 120} | keys)
        trainer = dpo.make_trainer(args, data, cases.model_arguments(CASE, cases.Setting(), bases), tmp_path / "own")
        found.append(trajectory(trainer)[1])
    assert_close(found[0], found[1], "losses", 1e-5)
    assert found[0][2] < found[0][0]


@pytest.mark.slow
def test_a_stage_passes_its_self_check_and_validates_with_soft_labels(bases, tmp_path):
    data = reward.RewardArguments(cases.write(tmp_path / "rows.jsonl", labelled(SOFT)), eval_share=0.25)
    keys = {"max_length": 120, "label_column": "preference", "train_sampling_strategy": "group_by_length"}
    args = reward.RewardRecipe(str(tmp_path / "reward"), **cases.KEYS | keys)
    result = reward.run(args, data, cases.model_arguments(CASE, cases.Setting(), bases, "score"))
    assert result.self_check["checks"] and result.metrics["eval_loss"] > 0
    args = dpo.DPORecipe(str(tmp_path / "dpo"), **cases.KEYS | keys)
    data = cases.data_of(tmp_path / "rows.jsonl", labelled(SOFT))
    result = dpo.run(args, data, cases.model_arguments(CASE, cases.Setting(), bases))
    assert result.self_check["checks"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_log_and_the_report_say_that_labels_are_soft(stage, bases, tmp_path, caplog):
    with caplog.at_level("INFO"):
        STAGES[stage][0](labelled(SOFT), bases, tmp_path, label_column="preference")
    assert "labels: preference (the probability" in caplog.text
    assert data_text(training_data(tmp_path)) == "8 preference pairs of rows.jsonl (labels: preference)"


@pytest.mark.parametrize("label", [None, "much", True, 1.5])
def test_labels_that_are_no_probabilities_are_a_mistake(label, bases, tmp_path):
    rows = labelled(SOFT)
    rows[2]["preference"] = label
    for place, row in enumerate(rows):  # a column of one type
        if isinstance(label, str | bool):
            row["preference"] = label if place == 2 else type(label)()
    with pytest.raises(UserError, match="no probabilities"):
        dpo_trainer(rows, bases, tmp_path, label_column="preference")


def test_pairs_without_the_column_or_with_a_margin_are_a_mistake(bases, tmp_path):
    with pytest.raises(UserError, match="have no column 'preference'"):
        reward_trainer(cases.preferences(), bases, tmp_path / "none", label_column="preference")
    rows = [row | {"margin": 1.0} for row in labelled(SOFT)]
    with pytest.raises(UserError, match="have a margin"):
        reward_trainer(rows, bases, tmp_path / "margin", label_column="preference")


@pytest.mark.parametrize(
    "keys",
    [
        {"loss_type": ["ipo"]},
        {"loss_type": ["sigmoid", "ipo"]},
        {"loss_type": ["sft"]},
        {"ld_alpha": 0.5},
        {"use_weighting": True},
        {"f_divergence_type": "js_divergence"},
    ],
)
def test_losses_without_a_meaning_for_soft_labels_are_refused(keys, tmp_path):
    options = cases.KEYS | {"max_length": 120, "label_column": "preference"} | keys
    with pytest.raises((UserError, UserErrors), match=f"no meaning with {next(iter(keys))}"):
        dpo.DPORecipe(str(tmp_path), **options)
    dpo.DPORecipe(str(tmp_path), **options | {"label_column": None})


def test_the_fix_for_several_losses_names_their_weights(tmp_path):
    losses = {"loss_type": ["sigmoid", "ipo"], "loss_weights": [1.0, 1.0]}
    keys = cases.KEYS | {"max_length": 120, "label_column": "preference"}
    with pytest.raises(UserError) as error:
        dpo.DPORecipe(str(tmp_path), **keys | losses)
    fix = "--loss_type '[sigmoid]' --loss_weights null"
    assert error.value.fix == fix
    dpo.DPORecipe(str(tmp_path), **keys | {"loss_type": ["sigmoid"], "loss_weights": None})


def test_drawn_labels_have_the_mean_gradient_of_soft_ones(bases, tmp_path):
    """Of two pairs, over all four draws: each weighted with its probability."""
    soft, rows = [0.9, 0.3], cases.preferences()[:2]
    words = ragged.tokenizer(CASE.tokenizer)
    model = load_trainable(cases.parent_of(CASE, bases, "score"), "sequence-classification").eval()

    def gradient(labels):
        losses = []
        for row, label in zip(rows, labels, strict=True):
            ids = words.apply_chat_template([row["prompt"] + row[side] for side in ("chosen", "rejected")])["input_ids"]
            scores = [model(torch.tensor([one])).logits[0, 0] for one in ids]
            losses.append(both_labels(label, scores[0] - scores[1]))
        model.zero_grad()
        torch.stack(losses).mean().backward()
        return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])

    mean = sum(
        (soft[0] if a else 1 - soft[0]) * (soft[1] if b else 1 - soft[1]) * gradient([a, b])
        for a in (0.0, 1.0)
        for b in (0.0, 1.0)
    )
    torch.testing.assert_close(mean, gradient(soft), rtol=1e-4, atol=1e-6)

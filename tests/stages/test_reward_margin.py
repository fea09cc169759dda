"""The column `margin` of preference pairs, which TRL's reward loss reads."""

import pytest
import ragged
import stage_cases as cases
import torch
from compared import assert_close
from torch.nn.functional import logsigmoid

from alignment.data.arguments import DataArguments
from alignment.errors import UserError
from alignment.models.loading import load_trainable
from alignment.stages import dpo, reward

CASE = cases.Case()


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


def recipe(out, **keys):
    keys = cases.KEYS | {"max_length": 120, "per_device_train_batch_size": 4, "learning_rate": 0.0} | keys
    return reward.RewardRecipe(str(out / "stage"), **keys)


def with_margins(margins):
    return [row | {"margin": margin} for row, margin in zip(cases.preferences(), margins, strict=False)]


def trainer_of(rows, bases, out, **keys):
    data = reward.RewardArguments(cases.write(out / "rows.jsonl", rows), eval_share=0)
    model_args = cases.model_arguments(CASE, cases.Setting(), bases, "score")
    return reward.make_trainer(recipe(out, **keys), data, model_args, out / "stage")[0]


def first_loss(trainer, count):
    batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[place] for place in range(count)]))
    return trainer.compute_loss(trainer.model.eval(), batch).item()


MARGINS = [0.5, 2, 0, -1, 3.25, 0.1, 7, 1]


@pytest.mark.parametrize("as_text", [False, True])
def test_the_loss_reads_the_margin(as_text, bases, tmp_path):
    """Row by row: -log sigmoid(chosen - rejected - margin), and so TRL's own trainer on the same rows."""
    from trl import RewardConfig, RewardTrainer

    rows = with_margins([str(margin) for margin in MARGINS] if as_text else MARGINS)
    trainer = trainer_of(rows, bases, tmp_path, self_check=False)
    words = ragged.tokenizer(CASE.tokenizer)
    model = load_trainable(cases.parent_of(CASE, bases, "score"), "sequence-classification").eval()
    losses = []
    with torch.no_grad():
        for row in rows:
            ids = words.apply_chat_template([row["prompt"] + row[side] for side in ("chosen", "rejected")])["input_ids"]
            scores = [model(torch.tensor([one])).logits[0, 0] for one in ids]
            losses.append(-logsigmoid(scores[0] - scores[1] - float(row["margin"])))
    assert_close([first_loss(trainer, len(rows))], [torch.stack(losses).mean().item()], "the loss", 1e-5)
    from datasets import Dataset

    numbers = Dataset.from_list([row | {"margin": float(row["margin"])} for row in rows])
    args = RewardConfig(str(tmp_path / "theirs"), report_to="none", use_cpu=True, bf16=False, max_length=120)
    theirs = RewardTrainer(model, args=args, train_dataset=numbers, processing_class=words)
    assert_close([first_loss(trainer, len(rows))], [first_loss(theirs, len(rows))], "TRL's loss", 1e-5)


def test_a_run_with_margins_passes_its_self_check(bases, tmp_path):
    data = reward.RewardArguments(cases.write(tmp_path / "rows.jsonl", with_margins(MARGINS)), eval_share=0.25)
    model_args = cases.model_arguments(CASE, cases.Setting(), bases, "score")
    result = reward.run(recipe(tmp_path), data, model_args)
    assert result.self_check["checks"] and result.metrics["eval_loss"] > 0


@pytest.mark.parametrize("margin", [None, "much", True, 1e39])
def test_margins_that_are_no_numbers_are_a_mistake(margin, bases, tmp_path):
    rows = with_margins(MARGINS)
    rows[2]["margin"] = margin
    with pytest.raises(UserError, match="1 of 8 pairs of the train split") as error:
        trainer_of(rows, bases, tmp_path)
    assert "columns: {margin: data_margin}" in str(error.value)
    args = recipe(tmp_path, self_check=False)
    data = reward.RewardArguments(str(tmp_path / "rows.jsonl"), columns={"margin": "data_margin"}, eval_share=0)
    model_args = cases.model_arguments(CASE, cases.Setting(), bases, "score")
    trainer, _ = reward.make_trainer(args, data, model_args, tmp_path / "stage")
    assert "margin" not in trainer.train_dataset.column_names


def test_dpo_has_no_margin_in_its_loss(bases, tmp_path):
    """TRL's DPO does not read the column; `align check` notes it as not read."""
    data = DataArguments(cases.write(tmp_path / "rows.jsonl", with_margins(MARGINS)), eval_share=0)
    args = dpo.DPORecipe(str(tmp_path / "stage"), **cases.KEYS | {"max_length": 120})
    trainer = dpo.make_trainer(args, data, cases.model_arguments(CASE, cases.Setting(), bases), tmp_path / "stage")
    trainer = trainer[0] if isinstance(trainer, tuple) else trainer
    assert "margin" not in trainer.train_dataset.column_names


@pytest.mark.parametrize("gold", ["much", True, [1.0], None])
def test_gold_rewards_that_are_no_numbers_are_a_mistake_before_training(gold, bases, tmp_path):
    other = {str: "0.5", bool: False, list: [2.0]}.get(type(gold), 0.5)
    rows = [row | {"gold_chosen": 1.0, "gold_rejected": gold} for row in cases.preferences()]
    data = reward.RewardArguments(cases.write(tmp_path / "rows.jsonl", rows), eval_share=0.5)
    rows[0]["gold_rejected"] = other
    cases.write(tmp_path / "rows.jsonl", rows * 2 if gold is None else rows)
    with pytest.raises(UserError, match="pairs have no number as gold_rejected"):
        made(data, bases, tmp_path)
    data = reward.RewardArguments(data.dataset_name, columns={"gold_rejected": "data_gold_rejected"}, eval_share=0.5)
    made(data, bases, tmp_path)


def made(data, bases, tmp_path):
    model_args = cases.model_arguments(CASE, cases.Setting(), bases, "score")
    return reward.make_trainer(recipe(tmp_path, self_check=False), data, model_args, tmp_path / "stage")


@pytest.mark.parametrize("subset", ["prompt", "chosen", "nowhere"])
def test_a_subset_that_is_no_column_of_subsets_is_a_mistake_before_training(subset, bases, tmp_path):
    rows = [row | {"source": "ab"[at % 2]} for at, row in enumerate(cases.preferences())]
    data = reward.RewardArguments(cases.write(tmp_path / "rows.jsonl", rows), eval_share=0.5, card_subset=subset)
    with pytest.raises(UserError, match="correct card_subset"):
        made(data, bases, tmp_path)
    data = reward.RewardArguments(data.dataset_name, eval_share=0.5, card_subset="source")
    assert "source" in made(data, bases, tmp_path)[1]["validation"].column_names

"""A step of pretraining is that of its documents one by one, in any batches, order, packing and chunks of the loss."""

import pytest
import ragged
import stage_cases as cases
from covering import covering, every

from alignment.models.loading import load_trainable
from alignment.stages import pretrain

CASES = {"model": list(ragged.MODELS), "tokenizer": list(ragged.TOKENIZERS)}
SETTINGS = {"micro_batch": [8, 2, 1], "order": [0, 1], "loss_chunk_size": [None, 7], "max_length": [64, 50, 128]}


def split(row: dict) -> tuple[cases.Case, cases.Setting, dict]:
    case = cases.Case(model=row["model"], tokenizer=row["tokenizer"])
    keys = {name: row[name] for name in ("loss_chunk_size", "max_length")}
    return case, cases.Setting(micro_batch=row["micro_batch"], order=row["order"]), keys


def named(row: dict) -> str:
    return "-".join(str(value) for value in row.values())


@pytest.mark.parametrize("row", covering(CASES | SETTINGS), ids=named)
def test_a_step_is_that_of_its_documents_one_by_one(row, bases, tmp_path):
    case, setting, keys = split(row)
    cases.check_pretrain(case, setting, bases, tmp_path, **keys)


@pytest.mark.slow
@pytest.mark.parametrize("case", every(CASES), ids=named)
def test_every_setting_gives_the_same_step(case, bases, tmp_path):
    for place, setting in enumerate(every(SETTINGS)):
        case_of, setting_of, keys = split(case | setting)
        cases.check_pretrain(case_of, setting_of, bases, tmp_path / str(place), **keys)


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_validation_loss_is_that_of_its_documents(batch_size, chunk, bases, tmp_path):
    cases.check_validation(cases.Case(), batch_size, bases, tmp_path, loss_chunk_size=chunk)


@pytest.mark.parametrize("micro_batch", [1, 2, 8])
def test_windows_are_learned_alike_in_any_batches(micro_batch, bases, tmp_path):
    """Windows of the text are rows of one length; the step's loss is the mean over all of them."""
    case, keys = cases.Case(), {"max_length": 16, "window_stride": 16}
    long = [{"text": " ".join(row["text"] for row in cases.documents()[:8])}]
    setting = cases.Setting(micro_batch=micro_batch)
    args = pretrain.PretrainRecipe(str(tmp_path / "stage"), **cases.KEYS | setting.keys() | keys)
    watch, data = cases.Watch(), cases.data_of(tmp_path / "rows.jsonl", long)
    parent = cases.base_of(case, bases)
    pretrain.run(pretrain.PretrainArguments(model_name_or_path=parent), data, args, [watch])
    model, words = load_trainable(parent, "causal-lm"), ragged.tokenizer("ours")
    ids = [*words(long[0]["text"])["input_ids"], words.eos_token_id]
    rows = [ids[start : start + 17] for start in range(0, len(ids) - 16, 16)]
    assert 4 <= len(rows) <= 8
    cases.assert_step(watch, model, sum(cases.token_losses(model, row).sum() for row in rows) / (16 * len(rows)))

"""Rows that TRL drops for their length are counted, and a split without rows is refused with a length that works."""

import importlib
import json
import logging
import re
from pathlib import Path

import pytest
import torch
import trl
import yaml
from check_cases import CHATML, DATA, KIND_OF, WORDS, foreign_tokenizer, some_fast, turn
from transformers import LlamaConfig, LlamaForCausalLM

import align
from alignment.data.arguments import DataArguments
from alignment.errors import UserError
from alignment.stages.shared.lora import ModelArguments
from alignment.stages.shared.rollouts import RewardSources

LONG = " ".join(WORDS * 6)
QWEN3 = (Path(trl.__file__).parent / "chat_templates/qwen3.jinja").read_text()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    for name, template in {"chatml": CHATML, "qwen3": QWEN3}.items():
        tokenizer = foreign_tokenizer(template)
        torch.manual_seed(0)
        special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **special, **shape)
        LlamaForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: str(folder / name) for name in ("chatml", "qwen3")}


def make(stage: str, model: str, rows: list[dict], folder: Path, **keys):
    """The trainer of a stage on rows in a file; its data.json is in `folder`."""
    module = importlib.import_module(f"alignment.stages.{stage}")
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"use_cpu": True, "bf16": False, "report_to": "none", "per_device_train_batch_size": 2, "seed": 0}
    args = module.CONFIGS[0](str(folder / "out"), **settings | keys)
    others = [RewardSources(reward_funcs=["reward_models.tinyworld:gold"])] if stage == "grpo" else []
    data = module.CONFIGS[1](str(file), eval_share=0) if stage == "reward" else DataArguments(str(file), eval_share=0)
    made = module.make_trainer(args, data, ModelArguments(model_name_or_path=model), *others, folder)
    return made[0] if isinstance(made, tuple) else made


def longer(stage: str, count: int) -> list[dict]:
    """The usual rows, the first of which have a long prompt."""
    rows = DATA[KIND_OF[stage]]()
    for number, row in enumerate(rows[:count]):
        messages = row["messages"] if "messages" in row else row["prompt"]
        messages[0] = turn("user", f"{LONG} {number}")
    return rows


@pytest.mark.parametrize("stage", some_fast(["sft", "reward", "dpo", "kto"], "sft", "kto"))
def test_dropped_rows_are_counted(stage, models, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = make(stage, models["chatml"], longer(stage, 7), tmp_path, max_length=100)
    trained = 32 if stage == "kto" else 33  # KTO's batches of two are whole
    assert len(trainer.train_dataset) == trained
    counted = json.loads((tmp_path / "data.json").read_text())["tokenized"]["train"]
    ((reason, dropped),) = counted["dropped"].items()
    assert (counted["rows"], counted["trained"], dropped) == (40, trained, 40 - trained) and "max_length 100" in reason
    assert f"train: {40 - trained} of 40 rows are dropped: they {reason}" in caplog.text


@pytest.mark.parametrize("stage", some_fast(["sft", "reward", "dpo", "kto"], "reward"))
def test_a_split_without_rows_is_refused_with_a_length_that_works(stage, models, tmp_path):
    rows = longer(stage, 40)
    with pytest.raises(UserError, match="no row of the train split is left") as refused:
        make(stage, models["chatml"], rows, tmp_path, max_length=20)
    length = int(re.fullmatch(r"max_length: (\d+)", refused.value.fix)[1])
    assert len(make(stage, models["chatml"], rows, tmp_path, max_length=length).train_dataset) == 40
    assert "tokenized" not in json.loads((tmp_path / "data.json").read_text())


def conversations() -> list[dict]:
    """Conversations of one, two and three replies, with thinking."""
    rows = []
    for number in range(12):
        turns = []
        for reply in range(1 + number % 3):
            turns.append(turn("user", f"question {number} {reply}"))
            turns.append(turn("assistant", f"<think>\nthought {number} {reply}\n</think>\n\nanswer {number} {reply}"))
        rows.append({"messages": turns})
    return rows


def test_the_stage_trains_a_row_per_reply(models, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        trainer = make("sft", models["qwen3"], conversations(), tmp_path, max_length=256)
    assert len(trainer.train_dataset) == 24
    counted = json.loads((tmp_path / "data.json").read_text())["tokenized"]["train"]
    assert counted == {"conversations": 12, "rows": 24}
    assert "12 conversations become 24 rows, a row per reply" in caplog.text
    tokenizer, learned = trainer.processing_class, []
    for row in trainer.train_dataset:
        start = next(place for place, label in enumerate(row["labels"]) if label != -100)
        assert row["labels"][start:] == row["input_ids"][start:]
        before, reply = tokenizer.decode(row["input_ids"][:start]), tokenizer.decode(row["input_ids"][start:])
        assert "thought" not in before and reply.count("thought") == 1
        learned.append(re.search(r"answer (\d+ \d+)", reply)[1])
    assert len(set(learned)) == 24


def test_single_replies_are_left_to_trl(models, tmp_path):
    rows = [row for row in conversations() if len(row["messages"]) == 2]
    trainer = make("sft", models["qwen3"], rows, tmp_path, max_length=256)
    assert len(trainer.train_dataset) == 4
    assert "tokenized" not in json.loads((tmp_path / "data.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{}, {"packing": True}], ids=["padded", "packed"])
def test_check_and_training_of_a_row_per_reply(keys, models, tmp_path, capsys):
    """The check has no error, and the self-check finds in training the rows that the check shows."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in conversations()))
    recipe = {
        "model_name_or_path": models["qwen3"],
        "dataset_name": str(tmp_path / "rows.jsonl"),
        "max_length": 256,
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "bf16": False,
        "eval_share": 0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    file = tmp_path / "sft.yaml"
    file.write_text(yaml.safe_dump(recipe | keys))
    assert align.main(["check", str(file), "--samples", "0"]) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    assert "12 sampled conversations become 24 rows" in printed and "differently at inference" not in printed
    assert align.main(["sft", str(file), "--output_dir", str(tmp_path / "run/sft")]) == 0
    checked = json.loads((tmp_path / "run/sft/stage.json").read_text())["self_check"]
    assert "as align check shows them" in json.dumps(checked)

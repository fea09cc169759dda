"""`start_tokens_as`: turn markers that pretraining never showed start as the text that stood in their place."""

import json

import base_models
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.data.arguments import DataArguments
from alignment.errors import UserError
from alignment.models.loading import load_causal_lm
from alignment.models.vocabulary import make_room, start_as
from alignment.stages import sft
from alignment.stages.shared.lora import ModelArguments

CHATML = {"<|im_start|>": "\nQ:", "<|im_end|>": "\n"}
OPTIONS = {"max_length": 64, "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False}


def tables(model) -> list[torch.Tensor]:
    return [layer.weight.detach() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]


@pytest.mark.parametrize("tied", [False, True])
def test_a_token_starts_at_the_mean_of_its_texts_rows_and_no_other_row_changes(tmp_path, tied):
    base = base_models.llama(tmp_path, 0, tied, "<|a|>", "<|b|>")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    before = [table.clone() for table in tables(model)]
    start_as(model, tokenizer, {"<|a|>": "one<|b|>", "<|b|>": "two"})
    first, second = tokenizer.convert_tokens_to_ids(["<|a|>", "<|b|>"])
    # Special tokens in a text are text: <|b|> is written with five characters.
    pieces = {first: ["one", "<", "|", "b", "|", ">"], second: ["two"]}
    for old, new in zip(before, tables(model), strict=True):
        for token, parts in pieces.items():
            torch.testing.assert_close(new[token], old[tokenizer.convert_tokens_to_ids(parts)].mean(0))
        kept = [row for row in range(len(old)) if row not in pieces]
        assert torch.equal(new[kept], old[kept])


def test_the_bias_of_an_output_layer_starts_so_too(tmp_path):
    base = base_models.llama(tmp_path, 0, False, "<|a|>")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.arange(len(tokenizer)).float())
    start_as(model, tokenizer, {"<|a|>": "red"})
    one, red = tokenizer.convert_tokens_to_ids(["<|a|>", "red"])
    assert head.bias[one] == head.bias[red] == red


def train(folder, base, use_peft, **keys):
    args = sft.SFTRecipe(str(folder), max_steps=1, learning_rate=1e-9, **OPTIONS | keys)
    folder.parent.mkdir(exist_ok=True)
    rows = folder.parent / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in base_models.ROWS))
    sft.run(args, DataArguments(str(rows), eval_share=0), ModelArguments(str(base), use_peft=use_peft))
    return folder / "checkpoint"


@pytest.mark.parametrize("use_peft", [False, True], ids=["full", "LoRA"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_checkpoint_holds_the_rows_that_training_started_from(tmp_path, use_peft, tied):
    """With LoRA, the base of the checkpoint is the one on disk, which has not the markers' rows."""
    base = base_models.llama(tmp_path / "base", tied=tied)
    checkpoint = train(tmp_path / "sft", base, use_peft, start_tokens_as=CHATML)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    expected = AutoModelForCausalLM.from_pretrained(base)
    make_room(expected, len(tokenizer))
    start_as(expected, tokenizer, CHATML)
    for wanted, found in zip(tables(expected), tables(load_causal_lm(checkpoint)[0]), strict=True):
        torch.testing.assert_close(found[: len(wanted)], wanted, rtol=0, atol=1e-6)


def test_the_next_stage_still_notices_another_parent(tmp_path):
    base = base_models.llama(tmp_path / "base")
    parent = train(tmp_path / "first", base, False)
    train(tmp_path / "same" / "sft", parent, False, start_tokens_as=CHATML)
    record = parent.parent / "stage.json"
    stage = json.loads(record.read_text())
    stage["probe"]["log_probs"][0] += 0.01
    record.write_text(json.dumps(stage))
    with pytest.raises(UserError, match="starts from its parent"):
        train(tmp_path / "other" / "sft", parent, False, start_tokens_as=CHATML)


def lineage(method, **parents):
    return {"stage": method, "method": method, "digest": "0", "adapter": False, "parents": parents}


@pytest.mark.parametrize(
    ("parent", "starts"),
    [
        (None, True),
        (lineage("pretrain", tokenizer_name_or_path=lineage("tokenizer")), True),
        (lineage("pretrain", model_name_or_path=lineage("pretrain")), True),
        (lineage("pretrain", model_name_or_path={"from": "gpt2"}), True),
        (lineage("sft", model_name_or_path=lineage("pretrain")), False),
        (lineage("dpo", model_name_or_path=lineage("sft")), False),
        (lineage("pretrain", model_name_or_path=lineage("sft")), False),
    ],
)
def test_tokens_that_conversations_have_trained_stay_as_they_are(tmp_path, parent, starts):
    """docs/sampling.md runs recipes/tiny/sft.yaml a second time, from the SFT model."""
    if parent is not None:
        (tmp_path / "lineage.json").write_text(json.dumps(parent))
    args = sft.SFTRecipe("out", start_tokens_as=CHATML, **OPTIONS)
    assert sft.texts_to_start(args, str(tmp_path)) == (CHATML if starts else {})


def test_a_mapping_is_needed():
    with pytest.raises(UserError, match="start_tokens_as is no mapping"):
        sft.SFTRecipe("out", start_tokens_as=["<|user|>"], **OPTIONS)


def test_refusals_name_every_token(tmp_path):
    base = base_models.llama(tmp_path / "base")

    def check(parent, **texts):
        sft.check(sft.SFTRecipe("out", start_tokens_as=texts, **OPTIONS), None, ModelArguments(str(parent)))

    check(base, **CHATML)
    with pytest.raises(UserError) as refused:
        check(base, **{"<|user|>": "Q:", "red": "blue", "<|im_end|>": ""})
    said = str(refused.value)
    assert "'<|user|>' is no special token" in said and "'red'" in said and "'<|im_end|>' has no token" in said
    assert "<|im_start|>, <|im_end|>" in said
    adapter = train(tmp_path / "sft", base, True)
    with pytest.raises(UserError, match="needs a model without an adapter"):
        check(adapter, **CHATML)

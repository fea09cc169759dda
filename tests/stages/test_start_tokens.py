"""`start_tokens_as`: turn markers that pretraining never showed start as the text that stood in their place."""

import json
import logging

import base_models
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, trainer_utils

from alignment.data.arguments import DataArguments
from alignment.errors import UserError
from alignment.models.loading import load_causal_lm
from alignment.models.vocabulary import make_room, start_as, tokenize_within
from alignment.stages import sft
from alignment.stages.keys.start_tokens import check_start_tokens, texts_to_start
from alignment.stages.shared.lora import ModelArguments

CHATML = {"<|im_start|>": "\nQ:", "<|im_end|>": "\n"}
OPTIONS = {"max_length": 64, "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False}


def tables(model) -> list[torch.Tensor]:
    return [layer.weight.detach() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_token_starts_at_the_mean_of_its_texts_rows_and_no_other_row_changes(tmp_path, tied):
    base = base_models.llama(tmp_path, 0, tied, "<|a|>", "<|b|>")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    before = [table.clone() for table in tables(model)]
    start_as(model, tokenizer, {"<|a|>": "one</s>", "<|b|>": "two"})
    first, second = tokenizer.convert_tokens_to_ids(["<|a|>", "<|b|>"])
    # Special tokens in a text are text.
    pieces = {first: ["one", "<", "/", "s", ">"], second: ["two"]}
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


def train(folder, base, use_peft, model=None, **keys):
    args = sft.SFTRecipe(str(folder), max_steps=1, learning_rate=1e-9, **OPTIONS | keys)
    folder.parent.mkdir(exist_ok=True)
    rows = folder.parent / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in base_models.ROWS))
    sft.run(args, DataArguments(str(rows), eval_share=0), ModelArguments(str(base), use_peft=use_peft, **model or {}))
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
    before = [table.clone() for table in tables(expected)]
    start_as(expected, tokenizer, CHATML)
    found = tables(load_causal_lm(checkpoint)[0])
    for old, wanted, one in zip(before, tables(expected), found, strict=True):
        assert not torch.equal(old, wanted)
        torch.testing.assert_close(one[: len(wanted)], wanted, rtol=0, atol=1e-6)


def test_rows_that_an_adapter_trains_as_a_whole_table_start_so_too(tmp_path, monkeypatch):
    """And transformers has nothing to say about PAD, BOS and EOS, which are set before training."""
    said: list[str] = []
    monkeypatch.setattr(logging.getLogger(trainer_utils.__name__), "warning", said.append)
    base = base_models.llama(tmp_path / "base", 4)
    rows = {"lora_modules_to_save": ["embed_tokens", "lm_head"]}
    checkpoint = train(tmp_path / "sft", base, True, start_tokens_as=CHATML, model=rows)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    expected = AutoModelForCausalLM.from_pretrained(base)
    start_as(expected, tokenizer, CHATML)
    assert not said
    for wanted, found in zip(tables(expected), tables(load_causal_lm(checkpoint)[0]), strict=True):
        torch.testing.assert_close(found[: len(wanted)], wanted, rtol=0, atol=1e-6)


def test_the_base_of_an_adapter_is_not_changed(tmp_path):
    """The adapter is loaded on the base of the disk, so that training has to run on that base too."""
    base = base_models.llama(tmp_path / "base", 4)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in base_models.ROWS))
    args = sft.SFTRecipe(str(tmp_path / "sft"), start_tokens_as=CHATML, max_steps=1, **OPTIONS)
    data = DataArguments(str(tmp_path / "rows.jsonl"), eval_share=0)
    trainer, _, texts = sft.make_trainer(args, data, ModelArguments(str(base), use_peft=True), tmp_path / "sft")
    table = next(
        one
        for name, one in trainer.model.named_parameters()
        if "embed_tokens" in name and one.dim() == 2 and len(one) > 50
    )
    before = table.clone()
    start_as(trainer.model, trainer.processing_class, texts)
    assert torch.equal(table, before)


@pytest.mark.parametrize("prefix", [False, True])
def test_a_text_is_tokenized_as_in_the_middle_of_another(tmp_path, prefix):
    """SentencePiece and byte-level tokenizers with add_prefix_space write a space before a text's first word."""
    from tokenizers import pre_tokenizers

    tokenizer = base_models.tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    assert tokenizer.convert_ids_to_tokens(tokenize_within(tokenizer, "\nQ:")) == ["Ċ", "Q", ":"]


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
    assert texts_to_start(CHATML, str(tmp_path)) == (CHATML if starts else {})


def test_a_mapping_is_needed():
    with pytest.raises(UserError, match="start_tokens_as is no mapping"):
        sft.SFTRecipe("out", start_tokens_as=["<|user|>"], **OPTIONS)


def test_refusals_name_every_token(tmp_path):
    base = base_models.llama(tmp_path / "base")

    def check(parent, **texts):
        sft.check(sft.SFTRecipe("out", start_tokens_as=texts, **OPTIONS), None, ModelArguments(str(parent)))

    check(base, **CHATML)
    check(base, **CHATML | {"<|user|>": None})  # as a recipe that extends another leaves its tokens out
    with pytest.raises(UserError) as refused:
        check(base, **{"<|user|>": "Q:", "red": "blue", "<|im_end|>": "", "<|im_start|>": 3})
    said = str(refused.value)
    assert "'<|user|>', 'red'" in said and "<|im_end|>, <|im_start|>" in said and "--start_tokens_as null" in said
    assert "'<|im_end|>' cannot start as its text" in said and "'<|im_start|>' cannot start as its text" in said
    adapter = train(tmp_path / "sft", base, True)
    with pytest.raises(UserError, match="needs a model without an adapter"):
        check(adapter, **CHATML)


def test_a_text_of_unknown_or_special_tokens_is_refused(tmp_path):
    base = base_models.llama(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m.content }}{% endfor %}"
    tokenizer.add_tokens(["<mark>"])
    with pytest.raises(UserError, match="'<s>' cannot start as its text"):
        check_start_tokens({"<s>": "a<mark>"}, str(base), with_template(tokenizer, "<mark>"), False)
    tokenizer.unk_token = "red"
    with pytest.raises(UserError, match="'<s>' cannot start as its text"):
        check_start_tokens({"<s>": "red"}, str(base), tokenizer, False)


def with_template(tokenizer, more):
    tokenizer.chat_template = tokenizer.chat_template + more
    return tokenizer


def test_a_chat_model_from_elsewhere_gets_a_warning(tmp_path, caplog):
    base = base_models.llama(tmp_path / "base")
    first = train(tmp_path / "first", base, False)
    (first / "lineage.json").unlink(missing_ok=True)
    with caplog.at_level("INFO"):
        train(tmp_path / "again" / "sft", first, False, start_tokens_as=CHATML)
    assert "makes it forget" in caplog.text
    caplog.clear()
    train(tmp_path / "base again" / "sft", base, False, start_tokens_as=CHATML)
    assert "makes it forget" not in caplog.text


def test_align_check_reports_a_token_that_the_template_lacks(tmp_path, monkeypatch, capsys):
    import align

    base = base_models.llama(tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in base_models.ROWS))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sft.yaml").write_text(
        f"model_name_or_path: {base}\ndataset_name: rows.jsonl\nmax_length: 64\neval_share: 0\n"
        "start_tokens_as: {'<|user|>': 'Q:'}\n"
    )
    assert align.main(["check", "sft.yaml"]) == 1
    shown = capsys.readouterr()
    assert "'<|user|>'" in shown.out + shown.err and "chat template" in shown.out + shown.err

"""Checkpoints and adapters that are incomplete, damaged or of another kind: a user error that names what is wrong."""

import argparse
import json
import logging
import shutil

import base_models
import broken_checkpoints as broken
import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from alignment.cli.inspect import info
from alignment.errors import UserError
from alignment.models.checkpoints import read_lineage
from alignment.models.interop import import_checkpoint
from alignment.models.loading import load_causal_lm, load_trainable
from alignment.models.merging import merge

IDS = torch.tensor([[5, 6, 3, 7, 9]])


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return broken.make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def adapter(parts):
    return broken.save_adapter(parts / "adapter", parts / "base")


def changed(intact, change):
    """A changed copy, next to the intact folder."""
    folder = intact.parent / "changed"
    for old in intact.parent.glob("changed*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(intact, folder)
    change(folder)
    return folder


@pytest.mark.parametrize("case", broken.MODELS)
def test_a_broken_model_is_refused_by_what_is_wrong(case, parts):
    intact, change, said = broken.MODELS[case]
    with pytest.raises(UserError) as raised:
        load_causal_lm(str(changed(parts / intact, change)))
    assert said in str(raised.value)


@pytest.mark.parametrize("case", broken.SOUND)
def test_an_unusual_model_is_loaded_as_it_is(case, parts):
    intact, change = broken.SOUND[case]
    folder = changed(parts / intact, change)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(load_causal_lm(str(folder))[0](IDS).logits, plain(IDS).logits, rtol=0, atol=0)


@pytest.mark.parametrize("case", broken.ADAPTERS)
def test_a_broken_adapter_is_refused_by_what_is_wrong(case, adapter):
    change, said = broken.ADAPTERS[case]
    with pytest.raises(UserError) as raised:
        load_causal_lm(str(changed(adapter, change)))
    assert said in str(raised.value)


@pytest.mark.parametrize("case", broken.KINDS)
def test_an_adapter_of_another_kind_gives_peft_s_logits_or_is_refused(case, parts):
    config, change, said = broken.KINDS[case]
    made = broken.save_adapter(parts / "made", parts / "base", config)
    folder = changed(made, change)
    shutil.rmtree(made)
    if said is None:
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(parts / "base"), folder).eval()
        torch.testing.assert_close(load_causal_lm(str(folder))[0](IDS).logits, plain(IDS).logits, rtol=1e-4, atol=1e-4)
        return
    with pytest.raises(UserError) as raised:
        load_causal_lm(str(folder))
    assert said in str(raised.value)


@pytest.mark.parametrize("case", broken.LINEAGES)
def test_a_damaged_lineage_is_refused_by_what_is_wrong(case, tmp_path):
    content, said = broken.LINEAGES[case]
    (tmp_path / "lineage.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as raised:
        read_lineage(tmp_path)
    assert said in str(raised.value)


@pytest.mark.parametrize("write_with", [merge, import_checkpoint])
def test_nothing_is_written_with_tokens_that_have_no_rows(write_with, adapter, tmp_path):
    with pytest.raises(UserError, match="beyond the model's embeddings"):
        write_with(str(changed(adapter, broken.more_tokens)), tmp_path / "written")
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("case", broken.TIED)
def test_an_adapter_on_tied_embeddings_gives_peft_s_logits(case, parts):
    config = LoraConfig(r=2, task_type="CAUSAL_LM", **broken.TIED[case])
    folder = changed(broken.save_adapter(parts / "made", parts / "tied", config), lambda f: None)
    shutil.rmtree(parts / "made")
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(parts / "tied"), folder).eval()(IDS)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(load_causal_lm(str(folder))[0](IDS).logits, expected.logits, **close)
    for write_with in [merge, import_checkpoint] if case in ("LoRA on both", "saved the input layer") else []:
        written = folder.with_name(f"changed-{write_with.__name__}")
        write_with(str(folder), written)
        torch.testing.assert_close(load_causal_lm(str(written))[0](IDS).logits, expected.logits, **close)


def test_an_adapter_that_cannot_be_merged_stays_apart(adapter, monkeypatch, caplog):
    expected = load_causal_lm(str(adapter))[0](IDS).logits
    monkeypatch.setattr("peft.tuners.lora.Linear.get_delta_weight", lambda layer, name: layer.weight * 0)
    apart = load_causal_lm(str(adapter))[0]
    torch.testing.assert_close(apart(IDS).logits, expected)
    assert isinstance(apart, PeftModel) and not apart.training and "kept apart" in caplog.text


def test_a_relative_base_is_found_from_the_adapter_s_folder(adapter, parts, monkeypatch, tmp_path):
    expected = load_causal_lm(str(adapter))[0](IDS).logits
    folder = changed(adapter, broken.adapter_settings(base_model_name_or_path="../base"))
    monkeypatch.chdir(tmp_path)
    torch.testing.assert_close(load_causal_lm(str(folder))[0](IDS).logits, expected)


def test_a_base_found_elsewhere_is_named(adapter, parts, tmp_path, caplog):
    folder = shutil.copytree(adapter, tmp_path / "run/sft/checkpoint")
    broken.adapter_settings(base_model_name_or_path="/gone/base/checkpoint")(folder)
    shutil.copytree(parts / "base", tmp_path / "run/base/checkpoint")
    load_causal_lm(str(folder))
    assert f"/gone/base/checkpoint is not there; {tmp_path}/run/base/checkpoint is used" in caplog.text
    caplog.clear()
    load_causal_lm(str(adapter))
    assert caplog.text == ""


def test_a_foreign_checkpoint_is_not_called_damaged(parts, capsys):
    with pytest.raises(UserError, match="has no manifest to compare") as raised:
        info.main(argparse.Namespace(verify=True, checkpoint=str(parts / "base"), preset=None))
    assert "damaged" not in str(raised.value)


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(adapter, caplog):
    caplog.set_level(logging.INFO, "alignment")
    _, words = load_causal_lm(str(changed(adapter, broken.without("token*"))))
    assert words.get_vocab() == base_models.tokenizer().get_vocab()
    assert "has no tokenizer" in caplog.text


def test_only_what_is_not_used_is_named(parts, caplog):
    """Libraries' tables of missing keys are not shown: what is missing is refused, what is expected is no news."""
    caplog.set_level(logging.INFO)
    load_causal_lm(str(changed(parts / "base", broken.SOUND["more tensors than the model"][1])))
    assert "extra.weight" in caplog.text and "LOAD REPORT" not in caplog.text
    caplog.clear()
    load_trainable(str(parts / "base"), "sequence-classification")  # whose head is new
    assert caplog.text == ""


def test_layers_that_the_config_leaves_out_are_named(parts, caplog):
    load_causal_lm(str(changed(parts / "base", broken.settings(num_hidden_layers=1))))
    assert "layers.1" in caplog.text


def test_a_token_that_no_template_writes_may_lie_beyond_the_embeddings(parts):
    """As Gemma 3's <image_soft_token> does in its models without images."""
    folder = changed(parts / "rows", broken.settings())
    words = base_models.tokenizer()
    words.add_special_tokens({"extra_special_tokens": [f"<unused{n}>" for n in range(40)]})
    words.save_pretrained(folder)
    load_causal_lm(str(folder))
    words.add_special_tokens({"pad_token": "<unused39>"})
    words.save_pretrained(folder)
    with pytest.raises(UserError, match="<unused39>"):
        load_causal_lm(str(folder))


def test_the_fix_for_a_prefix_works(parts):
    folder = changed(parts / "base", broken.prefixed("_orig_mod."))
    with pytest.raises(UserError) as raised:
        load_causal_lm(str(folder))
    fix = str(raised.value).partition("python -c '")[2].partition("'")[0]
    exec(fix, {})
    plain = load_causal_lm(str(parts / "base"))[0](IDS).logits
    torch.testing.assert_close(load_causal_lm(str(folder))[0](IDS).logits, plain, rtol=0, atol=0)


def test_an_adapter_on_a_base_of_other_rows_fits_if_it_has_none_of_them(parts, adapter):
    folder = changed(adapter, lambda f: broken.on(f, "rows"))
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"].endswith("rows")
    load_causal_lm(str(folder))


def test_a_causal_adapter_is_no_classifier_s(parts):
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS")
    folder = broken.save_adapter(parts / "scores", parts / "base", config, "sequence-classification")
    load_trainable(str(folder), "sequence-classification")
    with pytest.raises(UserError, match="SEQ_CLS"):
        load_causal_lm(str(folder))

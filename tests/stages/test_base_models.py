"""SFT of a base model whose tokenizer has no chat template: markers, rows that are trained, and an end to replies."""

import json

import base_models
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.data.arguments import DataArguments
from alignment.models.chain import read_chain
from alignment.models.loading import load_causal_lm, load_config, load_trainable
from alignment.models.merging import merge
from alignment.models.vocabulary import make_room
from alignment.stages import ppo, reward, sft
from alignment.stages.shared.lora import ModelArguments

OPTIONS = {
    "per_device_train_batch_size": 12,
    "logging_steps": 50,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
}
BASES = {
    "llama, no rows to spare": base_models.llama,
    "llama, tied": lambda folder: base_models.llama(folder, tied=True),
    "llama, spare rows": lambda folder: base_models.llama(folder, spare_rows=5),
    "gemma": base_models.gemma,
}


def write(path, rows) -> DataArguments:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataArguments(str(path), eval_share=0)


def train(folder, base, steps=60, **keys):
    args = sft.SFTRecipe(str(folder), max_length=64, learning_rate=1e-2, max_steps=steps, **OPTIONS)
    data = write(folder.parent / "rows.jsonl", base_models.ROWS)
    keys = {"use_peft": True, "lora_r": 8, "lora_alpha": 16} | keys
    sft.run(args, data, ModelArguments(str(base), **keys))
    return folder / "checkpoint"


@pytest.fixture(scope="module", params=BASES)
def tuned(request, tmp_path_factory):
    """(base, the checkpoint of its SFT adapter)."""
    folder = tmp_path_factory.mktemp("base")
    base = BASES[request.param](folder / "base")
    return base, train(folder / "sft", base)


def reply(model, tokenizer, question):
    messages = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=12, do_sample=False)
    return out[0, ids["input_ids"].shape[1] :]


def tables(model) -> list[torch.Tensor]:
    return [layer.weight.detach() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]


def test_generation_stops_at_the_end_of_the_turn(tuned):
    model, tokenizer = load_causal_lm(tuned[1])
    end = {"<end_of_turn>", "<|im_end|>"} & tokenizer.get_vocab().keys()
    for question, answer in base_models.ANSWERS.items():
        words = tokenizer.convert_ids_to_tokens(reply(model, tokenizer, question))
        assert words[-1] in end and len(words) < 12
        assert tokenizer.decode(reply(model, tokenizer, question), skip_special_tokens=True) == answer
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_the_next_stage_is_planned_with_the_rows_of_the_new_tokens(tuned):
    assert load_config(tuned[1]).vocab_size >= len(AutoTokenizer.from_pretrained(tuned[1]))


def test_new_rows_move_and_old_ones_do_not(tuned):
    base, checkpoint = tuned
    before, after = AutoModelForCausalLM.from_pretrained(base), load_causal_lm(checkpoint)[0]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    markers = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<end_of_turn>")]
    trained = {id for id in markers if id not in (None, tokenizer.unk_token_id)} | {tokenizer.bos_token_id}
    make_room(before, len(tokenizer))
    for old, new in zip(tables(before), tables(after), strict=True):
        moved = (old != new).any(1).nonzero().flatten().tolist()
        assert trained <= set(moved)
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        assert set(moved) <= special


def test_rows_survive_save_load_and_merge(tuned, tmp_path):
    base, checkpoint = tuned
    ids = torch.arange(0, len(AutoTokenizer.from_pretrained(checkpoint)))[None]
    with torch.no_grad():
        adapted = load_trainable(checkpoint, "causal-lm").eval()(ids).logits
        merge(checkpoint, tmp_path / "merged")
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(ids).logits
        # With plain PEFT, as docs/lora.md says.
        model = AutoModelForCausalLM.from_pretrained(base)
        grown_to = read_chain(checkpoint).grown_to
        if grown_to:
            make_room(model, grown_to)
        plain = PeftModel.from_pretrained(model, checkpoint).eval()(ids).logits
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-5 * adapted.abs().max().item())
    ids_in = [
        json.loads((tmp_path / "merged" / name).read_text()) for name in ("config.json", "generation_config.json")
    ]
    assert ids_in[0]["eos_token_id"] == ids_in[1]["eos_token_id"]
    assert torch.equal(plain, adapted)


def test_the_adapter_holds_no_whole_table(tuned):
    from safetensors import safe_open

    with safe_open(tuned[1] / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
    assert not [name for name in names if "base_layer" in name or name.endswith("embed_tokens.weight")]


def test_further_stages_go_on_with_the_rows(tuned, tmp_path):
    """A reward model and PPO with it on the same base, from an SFT adapter with rows of its own."""
    worse = [{"role": "assistant", "content": "x"}]
    pairs = [
        {"prompt": row["messages"][:1], "chosen": row["messages"][1:], "rejected": worse} for row in base_models.ROWS
    ]
    args = reward.RewardRecipe(str(tmp_path / "reward"), max_length=64, max_steps=2, learning_rate=1e-3, **OPTIONS)
    data = reward.RewardArguments(write(tmp_path / "pairs.jsonl", pairs).dataset_name, eval_share=0)
    reward.run(args, data, ModelArguments(str(tuned[1])))
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": row["prompt"]} for row in pairs])
    args = ppo.PPORecipe(str(tmp_path / "ppo"), max_completion_length=8, max_steps=1, **OPTIONS | {"logging_steps": 1})
    sources = ppo.RewardSources(reward_model_path=str(tmp_path / "reward/checkpoint"))
    ppo.run(args, prompts, ModelArguments(str(tuned[1])), sources, ppo.OtherSources())
    assert read_chain(tmp_path / "ppo/checkpoint").grown_to == read_chain(tuned[1]).grown_to
    load_causal_lm(tmp_path / "ppo/checkpoint")


def test_full_fine_tuning_saves_the_grown_model(tmp_path, caplog):
    base = base_models.llama(tmp_path / "base")
    with caplog.at_level("INFO"):
        checkpoint = train(tmp_path / "sft", base, steps=2, use_peft=False)
    assert "grow from" in caplog.text and "chatml, with new tokens" in caplog.text
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert AutoModelForCausalLM.from_pretrained(checkpoint).config.vocab_size == len(tokenizer)

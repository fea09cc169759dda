"""An adapter trained on from an adapter, in each adapter_mode: its reference, its first step, and what is written."""

import json
import math
import shutil
from contextlib import nullcontext

import ppo_tiny as tiny
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from trl.trainer.utils import use_adapter

import align
from alignment.data.arguments import DataArguments
from alignment.errors import UserError
from alignment.models.chain import read_chain
from alignment.models.loading import load_causal_lm, load_trainable
from alignment.models.merging import merge
from alignment.stages import dpo, grpo, ppo, reward, sft
from alignment.stages.shared.chains import record_chain
from alignment.stages.shared.lora import ModelArguments
from alignment.stages.shared.saving import save_checkpoint
from eval.harness.store import checkpoint_digest
from reward_models.learned import load_members

MODES = ["continue", "stack", "merge"]
IDS = torch.tensor([[5, 6, tiny.TURN, 7, 8, 9]])
OPTIONS = {
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "learning_rate": 1e-2,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataArguments(str(path), eval_share=0)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A base, an SFT adapter on it that has learned, in LoRA's matrices and in a token's row, and data."""
    run = tmp_path_factory.mktemp("run")
    base = run / "pretrain/checkpoint"
    model = tiny.model(tie_word_embeddings=True)
    model.generation_config.eos_token_id = [tiny.EOS, tiny.TURN]
    save_checkpoint(model, tiny.tokenizer(), base)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", trainable_token_indices=[tiny.TURN])
    adapted = tiny.active(get_peft_model(AutoModelForCausalLM.from_pretrained(base), config))
    for name, parameter in adapted.named_parameters():
        if "trainable_tokens_delta" in name:
            parameter.data.normal_(std=0.3)
    save_checkpoint(adapted, tiny.tokenizer(), run / "sft/checkpoint")
    record_chain(adapted, run / "sft/checkpoint", "sft", str(base), "pretrain")
    return run


@pytest.fixture(scope="module")
def data(run_dir):
    say = lambda role, text: [{"role": role, "content": text}]  # noqa: E731
    pairs = [
        {"prompt": say("user", f"w{n} w2"), "chosen": say("assistant", "w3 w4"), "rejected": say("assistant", "w5 w6")}
        for n in range(8)
    ]
    return {
        "pairs": write_rows(run_dir / "pairs.jsonl", pairs),
        "prompts": write_rows(run_dir / "prompts.jsonl", [{"prompt": row["prompt"]} for row in pairs]),
        "messages": write_rows(run_dir / "sft.jsonl", [{"messages": row["prompt"] + row["chosen"]} for row in pairs]),
    }


def model_args(parent, mode, **keys) -> ModelArguments:
    new = {} if mode == "continue" else {"use_peft": True, "lora_r": 2}
    return ModelArguments(str(parent), adapter_mode=mode, **new | keys)


def dpo_args(folder, **keys):
    return dpo.DPORecipe(str(folder), max_length=32, **OPTIONS | {"max_steps": 2} | keys)


def run_dpo(run_dir, data, mode, parent="sft", name=None):
    parent, folder = run_dir / parent / "checkpoint", run_dir / (name or f"dpo-{mode}")
    dpo.run(dpo_args(folder), data["pairs"], model_args(parent, mode))
    return folder


@pytest.fixture(scope="module")
def trained(run_dir, data):
    """A finished DPO stage in each mode."""
    return {mode: run_dpo(run_dir, data, mode) for mode in MODES}


def logits(checkpoint) -> torch.Tensor:
    """Unmerged."""
    with torch.no_grad():
        return load_trainable(checkpoint, "causal-lm").eval()(IDS).logits


def first_logged(folder) -> dict:
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize("mode", MODES)
def test_the_reference_of_dpo_is_the_sft_model(run_dir, data, mode, tmp_path):
    parent = run_dir / "sft/checkpoint"
    trainer = dpo.make_trainer(dpo_args(tmp_path / "trainer"), data["pairs"], model_args(parent, mode), tmp_path)
    if mode != "merge":  # to the bit
        with torch.no_grad(), use_adapter(trainer.model, "ref") if mode == "continue" else nullcontext():
            assert torch.equal((trainer.ref_model or trainer.model).eval()(IDS).logits, logits(parent))
    batch = next(iter(trainer.get_train_dataloader()))
    found = trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, batch)
    sft_model = load_trainable(parent, "causal-lm").eval()  # and as TRL computes with it
    with torch.no_grad():
        out = sft_model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
    per_token = out[:, :-1].gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    expected = (per_token * batch["completion_mask"][:, 1:]).sum(1).chunk(2)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)


@pytest.mark.parametrize("mode", MODES)
def test_dpo_begins_at_log_2_and_leaves_it(trained, mode):
    lines = [json.loads(line) for line in (trained[mode] / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    exact = 1e-6 if mode != "merge" else 1e-4
    assert losses[0] == pytest.approx(math.log(2), abs=exact)
    assert losses[1] < math.log(2) - 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_the_kl_of_ppo_begins_at_0(run_dir, data, mode):
    folder = run_dir / f"ppo-{mode}"
    args = ppo.PPORecipe(
        str(folder), max_completion_length=6, num_iterations=1, **OPTIONS | {"max_steps": 2, "learning_rate": 1e-1}
    )
    sources = ppo.RewardSources(reward_funcs=["reward_models.rules:length_penalty?each=0.1"])
    ppo.run(args, data["prompts"], model_args(run_dir / "sft/checkpoint", mode), sources, ppo.OtherSources())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kls = [line["kl"] for line in lines if "kl" in line]
    assert kls[0] == pytest.approx(0, abs=1e-6)
    assert abs(kls[1]) > 1e-3
    assert not torch.equal(logits(folder / "checkpoint"), logits(run_dir / "sft/checkpoint"))


def grpo_args(folder, **keys):
    usual = {"num_generations": 4, "max_completion_length": 6, "beta": 0.1, "max_steps": 2, "learning_rate": 1e-1}
    return grpo.GRPORecipe(str(folder), **OPTIONS | usual | keys)


def make_grpo(folder, data, arguments, **keys):
    sources = ppo.RewardSources(reward_funcs=["reward_models.rules:length_penalty?each=0.1"])
    return grpo.make_trainer(grpo_args(folder, **keys), data["prompts"], arguments, sources, folder)


def kls_of(trainer) -> list[float]:
    return [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]


@pytest.mark.parametrize(
    ("parent", "mode"), [*[("sft", mode) for mode in MODES], ("dpo-stack", "continue"), ("pretrain", "continue")]
)
def test_the_reference_of_grpo_is_the_sft_model_and_stays_it(run_dir, data, trained, parent, mode, tmp_path):
    parent = run_dir / parent / "checkpoint"
    trainer = make_grpo(tmp_path, data, model_args(parent, mode))
    trainer.train()
    kls = kls_of(trainer)
    assert kls[0] == pytest.approx(0, abs=1e-6)
    assert kls[1] > 1e-3
    if mode != "merge":  # to the bit
        with torch.no_grad(), nullcontext() if trainer.ref_model else use_adapter(trainer.model, "ref"):
            assert torch.equal((trainer.ref_model or trainer.model).eval()(IDS).logits, logits(parent))
    assert not torch.equal(trainer.model.eval()(IDS).logits, logits(parent))


@pytest.mark.parametrize("mode", MODES)
def test_the_chain_is_recorded(run_dir, trained, mode):
    chain = read_chain(trained[mode] / "checkpoint")
    stages = {"continue": [["sft", "dpo-continue"]], "stack": [["sft"], ["dpo-stack"]], "merge": [["dpo-merge"]]}
    assert [link.stages for link in chain.links] == stages[mode]
    assert json.loads((trained[mode] / "stage.json").read_text())["adapter_chain"]["base"] == chain.base
    if mode == "merge":
        assert chain.base == str(trained[mode] / "base")
        assert chain.merged_from["links"][0]["stages"] == ["sft"]
    else:
        assert chain.base == str(run_dir / "pretrain/checkpoint")


def test_the_adapter_below_stays_as_it_was(run_dir, trained):
    below = (trained["stack"] / "checkpoint/earlier_1/adapter_model.safetensors").read_bytes()
    assert below == (run_dir / "sft/checkpoint/adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("mode", MODES)
def test_merged_weights_say_the_same(trained, mode, tmp_path):
    checkpoint = trained[mode] / "checkpoint"
    made = merge(checkpoint, tmp_path / "merged")
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(IDS).logits
        loaded = load_causal_lm(checkpoint)[0](IDS).logits
    torch.testing.assert_close(found, logits(checkpoint), rtol=0, atol=1e-5)
    torch.testing.assert_close(loaded, logits(checkpoint), rtol=0, atol=1e-5)
    assert made.difference <= 1e-5
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert model.generation_config.eos_token_id == [tiny.EOS, tiny.TURN]


def test_a_stack_of_three_keeps_its_order_and_loads_with_plain_peft(run_dir, data, trained):
    folder = run_dpo(run_dir, data, "stack", parent="dpo-stack", name="third")
    checkpoint = folder / "checkpoint"
    chain = read_chain(checkpoint)
    assert [link.stages for link in chain.links] == [["sft"], ["dpo-stack"], ["third"]]
    assert first_logged(folder)["loss"] == pytest.approx(math.log(2), abs=1e-6)
    # The lines that docs/lora.md shows.
    model = AutoModelForCausalLM.from_pretrained(chain.base)
    for link in chain.links:
        model = PeftModel.from_pretrained(model, checkpoint / link.folder).merge_and_unload()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(IDS).logits, logits(checkpoint), rtol=0, atol=1e-5)
    assert load_trainable(checkpoint, "causal-lm").active_adapters == ["default", "earlier_2", "earlier_1"]


def test_going_on_with_a_stack_measures_against_the_whole_of_it(run_dir, data, trained):
    folder = run_dpo(run_dir, data, "continue", parent="dpo-stack", name="further")
    assert first_logged(folder)["loss"] == pytest.approx(math.log(2), abs=1e-6)
    links = read_chain(folder / "checkpoint").links
    assert [link.stages for link in links] == [["sft"], ["dpo-stack", "further"]]


def test_only_the_newest_of_a_stack_is_trainable(trained):
    model = load_trainable(trained["stack"] / "checkpoint", "causal-lm")
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert names and all(".default." in name for name in names)


def test_a_copied_checkpoint_is_whole_and_one_without_its_chain_is_refused(trained, tmp_path):
    checkpoint = trained["stack"] / "checkpoint"
    shutil.copytree(checkpoint, tmp_path / "copy")
    assert torch.equal(logits(tmp_path / "copy"), logits(checkpoint))
    assert checkpoint_digest(tmp_path / "copy") == checkpoint_digest(checkpoint)
    shutil.rmtree(tmp_path / "copy/earlier_1")
    with pytest.raises(UserError, match="is damaged"):
        load_causal_lm(tmp_path / "copy")
    (tmp_path / "copy/manifest.json").unlink()  # as a copy of single files has none
    with pytest.raises(UserError, match="needs an earlier adapter"):
        load_causal_lm(tmp_path / "copy")


def test_an_adapter_of_another_base_is_refused(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    config = tmp_path / "run/sft/checkpoint/adapter_config.json"
    moved = str(tmp_path / "run/pretrain/checkpoint")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": moved}))
    load_causal_lm(tmp_path / "run/sft/checkpoint")
    tiny.model(seed=1, tie_word_embeddings=True).save_pretrained(moved)
    with pytest.raises(UserError, match="trained on another base"):
        load_causal_lm(tmp_path / "run/sft/checkpoint")


@pytest.mark.parametrize("mode", MODES)
def test_reward_models_and_sft_take_chains_too(run_dir, data, trained, mode):
    args = reward.RewardRecipe(str(run_dir / f"reward-{mode}"), max_length=32, **OPTIONS | {"max_steps": 1})
    parent = run_dir / "dpo-stack/checkpoint"
    pairs = reward.RewardArguments(data["pairs"].dataset_name, eval_share=0)
    reward.run(args, pairs, model_args(parent, mode))
    (member,) = load_members([str(run_dir / f"reward-{mode}/checkpoint")])
    assert len(set(member(["w1 w2", "w1 w2"], [" w3 w4", " w5 w6"]))) == 2
    args = sft.SFTRecipe(
        str(run_dir / f"sft-{mode}"), max_length=32, assistant_only_loss=False, **OPTIONS | {"max_steps": 1}
    )
    sft.run(args, data["messages"], model_args(parent, mode))
    assert not torch.equal(logits(run_dir / f"sft-{mode}/checkpoint"), logits(parent))


def test_a_resumed_stack_ends_as_an_uninterrupted_one(run_dir, data, tmp_path):
    parent, ends = run_dir / "sft/checkpoint", []
    keys = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    for resume in (None, str(tmp_path / "whole/checkpoint-2")):
        place = tmp_path / ("again" if resume else "whole")
        trainer = dpo.make_trainer(dpo_args(place, **keys), data["pairs"], model_args(parent, "stack"), place)
        trainer.train(resume_from_checkpoint=resume)
        with torch.no_grad():
            ends.append(trainer.model.eval()(IDS).logits)
    assert torch.equal(*ends)


@pytest.mark.parametrize("mode", ["continue", "stack"])
def test_resumed_grpo_ends_as_uninterrupted(run_dir, data, mode, tmp_path):
    arguments, ends = model_args(run_dir / "sft/checkpoint", mode), []
    for resume in (None, str(tmp_path / "whole/checkpoint-1")):
        place = tmp_path / ("again" if resume else "whole")
        trainer = make_grpo(place, data, arguments, save_strategy="steps", save_steps=1)
        trainer.train(resume_from_checkpoint=resume)
        with torch.no_grad():
            ends.append((trainer.model.eval()(IDS).logits, kls_of(trainer)))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]  # measured against the same reference


def test_align_merge_and_info_tell_of_the_chain(trained, tmp_path, capsys):
    checkpoint = str(trained["stack"] / "checkpoint")
    assert align.main(["info", checkpoint]) == 0
    assert align.main(["merge", checkpoint, "--output_dir", str(tmp_path / "plain"), "--dtype", "bfloat16"]) == 0
    assert align.main(["info", str(tmp_path / "plain")]) == 0
    said = capsys.readouterr().out
    adapted, merged = said.partition("plain weights in bfloat16")[::2]
    for part in (adapted, merged):
        assert part.index("base  ") < part.index("adapter   sft") < part.index("adapter   dpo-stack")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "plain").dtype == torch.bfloat16
    assert align.main(["merge", checkpoint, "--output_dir", str(tmp_path / "plain")]) == 2
    assert align.main(["merge", str(tmp_path / "plain"), "--output_dir", str(tmp_path / "again")]) == 2


@pytest.mark.parametrize(
    ("keys", "said"), [({}, "trains a new adapter"), ({"use_peft": True, "use_dora": True}, "a DoRA or PiSSA adapter")]
)
def test_a_new_adapter_has_to_be_described(run_dir, keys, said):
    parent = str(run_dir / "sft/checkpoint")
    with pytest.raises(UserError, match=said):
        dpo.check(dpo_args("out"), None, ModelArguments(parent, adapter_mode="stack", **keys))


@pytest.mark.parametrize(
    "keys",
    [{"use_dora": True}, {"use_rslora": True}, {"init_lora_weights": "pissa"}, {"init_lora_weights": "pissa_niter_4"}],
)
def test_pefts_own_kinds_of_lora_are_saved_as_they_were_trained(run_dir, data, keys, tmp_path):
    args = sft.SFTRecipe(str(tmp_path / "sft"), max_length=32, assistant_only_loss=False, **OPTIONS | {"max_steps": 2})
    trained = ModelArguments(
        str(run_dir / "pretrain/checkpoint"), use_peft=True, lora_r=4, loraplus_lr_ratio=4.0, **keys
    )
    stage_dir = tmp_path / "sft"
    args.output_dir = str(stage_dir / "trainer")
    trainer, *_ = sft.make_trainer(args, data["messages"], trained, stage_dir)
    rates = {group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == {1e-2, 4e-2}
    trainer.train()
    with torch.no_grad():
        expected = trainer.model.eval()(IDS).logits
    initial = str(stage_dir / "trainer/initial_adapter")
    save_checkpoint(trainer.model, trainer.processing_class, stage_dir / "checkpoint", initial)
    torch.testing.assert_close(logits(stage_dir / "checkpoint"), expected, rtol=0, atol=1e-5)
    merge(stage_dir / "checkpoint", tmp_path / "merged")


def wrong(**keys):
    return ModelArguments(**{"use_peft": True} | keys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a quantised base needs CUDA")
def test_quantisation_without_cuda_is_refused(run_dir):
    args = wrong(model_name_or_path=str(run_dir / "pretrain/checkpoint"), load_in_4bit=True)
    with pytest.raises(UserError, match="no CUDA device"):
        dpo.check(dpo_args("out"), None, args)


def test_adapters_that_cannot_be_are_refused(run_dir):
    base = str(run_dir / "pretrain/checkpoint")
    with pytest.raises(UserError, match=r"k_proj.*q_proj"):
        dpo.check(dpo_args("out"), None, wrong(model_name_or_path=base, lora_target_modules=["query", "q_proj"]))
    with pytest.raises(UserError, match="PiSSA changes the base"):
        dpo.check(dpo_args("out"), None, wrong(model_name_or_path=base, init_lora_weights="pissa"))
    quantised = {"model_name_or_path": base, "load_in_4bit": True}
    with pytest.raises(UserError, match="quantised weights cannot change"):
        sft.check(sft.SFTRecipe("out"), None, wrong(**quantised, init_lora_weights="pissa"))
    with pytest.raises(UserError, match="needs a compute dtype"):
        dpo.check(dpo_args("out"), None, wrong(**quantised, dtype="auto"))
    with pytest.raises(UserError, match="init_lora_weights has an unknown value"):
        dpo.check(dpo_args("out"), None, wrong(model_name_or_path=base, init_lora_weights="zeros"))


def test_merging_what_is_no_adapter_says_what_is_there(run_dir, tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        merge(tmp_path / "misspelt", tmp_path / "merged")
    with pytest.raises(UserError, match="has no adapters to merge"):
        merge(run_dir / "pretrain/checkpoint", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()

"""The levers of pretraining change its speed, its memory or its optimizer, and nothing else."""

import logging

import pytest
import torch
from gpt_tiny import FAMILIES, SIZES, build, token_ids
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from alignment.errors import UserError
from alignment.models.gpt import GPTConfig, GPTForCausalLM
from alignment.stages.pretrain import PretrainRecipe
from alignment.trainers.pretrain.chunked_loss import linear_cross_entropy, plain_head
from alignment.trainers.pretrain.muon import hidden_matrices
from alignment.trainers.pretrain.trainer import PretrainConfig, PretrainTrainer

# Counting in steps of 1 to 5, which is soon learned in part; some tokens carry no loss.
COUNTS = [(torch.arange(24) * (index % 5 + 1) + index) % 96 for index in range(48)]
ROWS = [{"input_ids": ids, "labels": ids.masked_fill(ids < 10, -100)} for ids in COUNTS]
PLAIN = {**SIZES, "num_key_value_heads": 2}


def make_trainer(folder, model=None, **keys):
    torch.manual_seed(0)
    model = GPTForCausalLM(GPTConfig(**PLAIN)) if model is None else model
    args = PretrainConfig(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=keys.pop("max_steps", 8),
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy=keys.pop("save_strategy", "no"),
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **keys,
    )
    return PretrainTrainer(model=model, args=args, train_dataset=ROWS)


def losses(trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture(scope="module")
def plain_losses(tmp_path_factory):
    return losses(make_trainer(tmp_path_factory.mktemp("plain")))


class LargestOutput(TorchDispatchMode):
    """The largest number of elements in the output of any operation."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple) else (out,):
            self.elements = max(self.elements, one.numel() if isinstance(one, torch.Tensor) else 0)
        return out


@pytest.mark.parametrize("chunk_size", [1, 7, 100])
@pytest.mark.parametrize(
    ("softcap", "z_loss", "smoothing"),
    [(None, 0.0, 0.0), (2.0, 0.0, 0.0), (3.0, 0.1, 0.0), (None, 0.0, 0.3), (3.0, 0.1, 0.2)],
)
def test_the_chunked_loss_and_its_gradients_equal_the_whole_loss(chunk_size, softcap, z_loss, smoothing):
    torch.manual_seed(0)
    hidden, weight = torch.randn(30, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    labels = torch.randint(50, (30,)).masked_fill(torch.rand(30) < 0.2, -100)
    logits = hidden @ weight.T
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    options = {"ignore_index": -100, "reduction": "sum", "label_smoothing": smoothing}
    whole = torch.nn.functional.cross_entropy(logits, labels, **options)
    whole = whole + z_loss * logits.logsumexp(-1)[labels != -100].square().sum()
    chunked = linear_cross_entropy(hidden, weight, labels, chunk_size, softcap, z_loss, smoothing)
    torch.testing.assert_close(chunked, whole)
    ours, theirs = (torch.autograd.grad(loss * 3, (hidden, weight)) for loss in (chunked, whole))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_chunked_loss_is_plain_cross_entropy_by_default():
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(9, 8), torch.randn(50, 8), torch.randint(50, (9,))
    whole = torch.nn.functional.cross_entropy(hidden @ weight.T, labels, reduction="sum")
    torch.testing.assert_close(linear_cross_entropy(hidden, weight, labels, 4), whole)
    for wanted in (hidden, weight):  # only one of them is trained
        wanted.requires_grad_(True)
        [ours] = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels, 4), wanted)
        loss = torch.nn.functional.cross_entropy(hidden @ weight.T, labels, reduction="sum")
        torch.testing.assert_close(ours, *torch.autograd.grad(loss, wanted), rtol=1e-4, atol=1e-5)
        wanted.requires_grad_(False)


def test_scaled_logits_are_refused_and_capped_logits_are_not():
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    scaled = GraniteForCausalLM(GraniteConfig(**sizes, **heads, logits_scaling=2.0))
    assert "logits are not the product of the last hidden states" in plain_head(scaled) and scaled.training
    assert plain_head(GraniteForCausalLM(GraniteConfig(**sizes, **heads, logits_scaling=1.0)).eval()) is None
    capped = build(FAMILIES["softcap"]).train()
    assert plain_head(capped) is None and capped.training
    capped.lm_head.weight.data *= 10  # so that the cap shows
    assert plain_head(capped) is None


def test_only_the_logits_of_a_chunk_are_in_memory():
    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(500, 4, requires_grad=True)
    with LargestOutput() as largest:
        linear_cross_entropy(hidden, weight, torch.zeros(64, dtype=torch.long), chunk_size=8).backward()
    assert largest.elements == 8 * 500


@pytest.mark.parametrize("family", ["modern", "softcap", "moe"])
def test_training_in_chunks_follows_the_same_losses(family, tmp_path):
    ran = [
        losses(make_trainer(tmp_path, build(FAMILIES[family]).train(), gradient_accumulation_steps=2, **keys))
        for keys in ({}, {"loss_chunk_size": 13})
    ]
    assert ran[1] == pytest.approx(ran[0], rel=2e-4)


def test_another_architecture_trains_in_chunks(tmp_path):
    sizes = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "resid_pdrop": 0.0}
    ran = []
    for keys in ({}, {"loss_chunk_size": 16}):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(**sizes, embd_pdrop=0.0, attn_pdrop=0.0))
        trainer = make_trainer(tmp_path, model, **keys)
        ran.append(losses(trainer))
        assert trainer.chunks_loss == bool(keys)
    assert ran[1] == pytest.approx(ran[0], rel=2e-4)


def test_an_output_layer_with_a_bias_keeps_the_whole_loss(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = PhiForCausalLM(PhiConfig(vocab_size=96, hidden_size=32, intermediate_size=32, num_hidden_layers=1))
    trainer = make_trainer(tmp_path, model, loss_chunk_size=16)
    assert not trainer.chunks_loss
    assert "loss_chunk_size has no effect: the model has no output layer, or one with a bias" in caplog.text


def test_muon_trains_only_hidden_matrices_and_both_optimizers_follow_the_schedule(tmp_path):
    keys = {"muon": True, "muon_learning_rate": 0.02, "lr_scheduler_type": "warmup_stable_decay"}
    trainer = make_trainer(tmp_path, warmup_steps=2, decay_share=0.5, **keys)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    optimizer = trainer.create_optimizer()
    mine, *others = [{names[id(one)] for one in group["params"]} for group in optimizer.param_groups]
    assert mine == hidden_matrices(trainer.model)
    assert len(mine) == 2 * 7 and not any("embed" in name or "lm_head" in name or "norm" in name for name in mine)
    assert set(names.values()) == mine.union(*others)
    schedule = trainer.create_scheduler(8)
    rates = []
    for _ in range(8):
        rates.append([group["lr"] for group in optimizer.param_groups[:2]])
        optimizer.step()
        schedule.step()
    shares = [0, 0.5, 1, 1, 1, 0.75, 0.5, 0.25]
    assert [rate for rate, _ in rates] == pytest.approx([0.02 * share for share in shares])
    assert [rate for _, rate in rates] == pytest.approx([0.01 * share for share in shares])


def test_muon_does_not_train_experts_and_routers():
    names = hidden_matrices(build(FAMILIES["moe-shared"]))
    assert not any("experts.gate_up" in name or "gate.weight" in name for name in names)
    assert any("shared_experts" in name for name in names)


def test_a_resumed_run_with_muon_equals_the_uninterrupted_run(tmp_path):
    keys = {"muon": True, "loss_chunk_size": 32, "save_strategy": "steps", "save_steps": 4}
    whole = make_trainer(tmp_path / "run", **keys)
    whole.train()
    again = make_trainer(tmp_path / "run", **keys)
    again.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-4"))
    assert again.state.global_step == 8
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name


def test_muon_learns_faster_than_adamw_on_this_task(tmp_path, plain_losses):
    assert losses(make_trainer(tmp_path, muon=True))[-1] < plain_losses[-1]


def test_bf16_follows_float32_within_a_fiftieth(tmp_path, plain_losses):
    trainer = make_trainer(tmp_path, bf16=True)
    assert trainer.model.config._attn_implementation == "sdpa_float32"
    assert losses(trainer) == pytest.approx(plain_losses, rel=0.02)


def test_attention_in_float32_keeps_packed_documents_apart(tmp_path):
    """The mask that keeps packed documents apart is made as for sdpa."""
    torch.manual_seed(0)
    model, ids = GPTForCausalLM(GPTConfig(**PLAIN)).eval(), token_ids(2, 12)
    positions = torch.arange(6).repeat(2).expand(2, -1)
    before = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    after = make_trainer(tmp_path, model, attention_in_float32=True).model.eval()
    torch.testing.assert_close(after(input_ids=ids, position_ids=positions, use_cache=False).logits, before)
    alone = after(input_ids=ids[:, 6:], use_cache=False).logits
    torch.testing.assert_close(before[:, 6:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{"compile_layers": True}, {"torch_compile": True, "loss_chunk_size": 32}])
def test_compiled_training_follows_the_same_losses(keys, tmp_path, plain_losses):
    assert losses(make_trainer(tmp_path, **keys)) == pytest.approx(plain_losses, rel=1e-3)


def test_without_a_compiler_nothing_is_compiled_and_the_log_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    args = PretrainRecipe(output_dir=str(tmp_path), compile_layers=True, torch_compile=True, use_cpu=True)
    assert not args.compile_layers and not args.torch_compile
    assert caplog.text.count("has no effect") == 2


def test_settings_without_effect_are_refused_together(tmp_path):
    with pytest.raises(UserError) as error:
        PretrainConfig(str(tmp_path), use_cpu=True, decay_share=0.2, z_loss=1e-4, muon=True, optim="adafactor")
    assert all(text in str(error.value) for text in ("decay_share", "z_loss", "Muon can only be combined with AdamW"))


CPUS = {  # result of torch.cpu.get_capabilities -> whether bf16 is used if requested
    "AVX-512 BF16": ({"architecture": "x86_64", "avx512_bf16": True}, True),
    "AMX": ({"architecture": "x86_64", "amx_bf16": True}, True),
    "AVX2": ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
    "ARM": ({"architecture": "aarch64"}, True),
}


@pytest.mark.skipif(torch.accelerator.is_available(), reason="of machines with a CPU alone")
@pytest.mark.parametrize("cpu", CPUS)
def test_bf16_works_on_a_cpu_that_supports_it(cpu, tmp_path, monkeypatch, caplog):
    capabilities, used = CPUS[cpu]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    args = PretrainRecipe(output_dir=str(tmp_path), bf16=True)
    assert args.bf16 is used and args.device.type == "cpu"
    assert ("bf16 has no effect" in caplog.text) is not used
    assert not PretrainRecipe(output_dir=str(tmp_path)).bf16

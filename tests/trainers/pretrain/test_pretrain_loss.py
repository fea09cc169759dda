"""What pretraining minimises and reports: the router losses' weight does not depend on how a step is split, smoothing
is the same with and without chunks, and no evaluation contains either."""

import copy
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from gpt_tiny import EXPERTS, MODERN, SIZES, build, token_ids
from transformers import MixtralConfig, MixtralForCausalLM, TrainerCallback
from transformers.trainer_pt_utils import LabelSmoother

from alignment.models.router import no_router_logits, router_coefficient, weighted_router_loss
from alignment.trainers.pretrain.trainer import PretrainConfig, PretrainTrainer

CHUNKS = pytest.mark.parametrize("chunk", [None, 13], ids=["plain", "chunked"])
ROUTER = "model.layers.0.mlp.gate.weight"
SAME_ROWS = [
    {"input_ids": token_ids(16), "labels": token_ids(16)}
] * 8  # routed alike, so that any split balances alike
RAGGED = [
    {"input_ids": token_ids(16, seed=seed), "labels": token_ids(16, seed=seed).index_fill(0, torch.arange(seed), -100)}
    for seed in (1, 2, 6, 1, 3, 9, 4)
]


def ours(**changes):
    return build({**EXPERTS, "router_aux_loss_coef": 0.5, "router_z_loss_coef": 0.1, **changes})


def mixtral():
    torch.manual_seed(0)
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    return MixtralForCausalLM(MixtralConfig(**SIZES, **experts, output_router_logits=True, router_aux_loss_coef=0.5))


class Gradient(TrainerCallback):
    """The gradients of the first optimizer step."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def make_trainer(folder, model, rows=SAME_ROWS, callbacks=(), **keys):
    keys = {"per_device_train_batch_size": 4, "max_steps": 1, "max_grad_norm": 0.0, **keys}
    args = PretrainConfig(str(folder), use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, **keys)
    return PretrainTrainer(copy.deepcopy(model), args, None, rows, rows, callbacks=list(callbacks))


def gradients(folder, model, rows=SAME_ROWS, **keys) -> dict[str, torch.Tensor]:
    callback = Gradient()
    make_trainer(folder, model, rows, [callback], **keys).train()
    return callback.found


def assert_same(first, second):
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@CHUNKS
@pytest.mark.parametrize("make", [ours, mixtral])
def test_router_losses_have_the_same_weight_with_any_accumulation(make, chunk, tmp_path):
    model = make()
    whole = gradients(tmp_path, model, per_device_train_batch_size=8, loss_chunk_size=chunk)
    for size in (1, 2):
        keys = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size, "loss_chunk_size": chunk}
        assert_same(gradients(tmp_path, model, **keys), whole)
    model.config.output_router_logits = False
    without = gradients(tmp_path, model, per_device_train_batch_size=8, loss_chunk_size=chunk)
    assert (whole[ROUTER] - without[ROUTER]).norm() > 0.1 * without[ROUTER].norm()


@CHUNKS
def test_router_losses_have_the_same_weight_in_a_short_last_step(chunk, tmp_path):
    keys = {"loss_chunk_size": chunk, "num_train_epochs": 1, "max_steps": -1}
    short = gradients(
        tmp_path, ours(), SAME_ROWS[:3], per_device_train_batch_size=1, gradient_accumulation_steps=8, **keys
    )
    assert_same(short, gradients(tmp_path, ours(), SAME_ROWS[:3], per_device_train_batch_size=3, **keys))


@CHUNKS
def test_the_routers_z_loss_is_a_mean_over_the_tokens_of_the_step(chunk, tmp_path):
    model = ours(router_aux_loss_coef=1e-6, router_z_loss_coef=0.5)
    rows = [{"input_ids": token_ids(16, seed=seed), "labels": token_ids(16, seed=seed)} for seed in range(8)]
    whole = gradients(tmp_path, model, rows, per_device_train_batch_size=8, loss_chunk_size=chunk)
    split = gradients(
        tmp_path, model, rows, per_device_train_batch_size=1, gradient_accumulation_steps=8, loss_chunk_size=chunk
    )
    torch.testing.assert_close(split[ROUTER], whole[ROUTER], rtol=1e-4, atol=1e-5)


@CHUNKS
@pytest.mark.parametrize("averaged", [True, False], ids=["tokens averaged", "losses averaged"])
def test_router_losses_have_the_same_weight_with_several_processes(averaged, chunk, tmp_path, monkeypatch):
    """The mean of the shares of two processes is the share of a single process, with unevenly spread tokens."""
    keys = {"loss_chunk_size": chunk, "average_tokens_across_devices": averaged}
    rows = [RAGGED[0], RAGGED[5]] if averaged else [RAGGED[0], RAGGED[3]]  # without: as many targets in each
    batches = [{name: column[None] for name, column in row.items()} for row in rows]
    counts = [(batch["labels"][:, 1:] != -100).sum() for batch in batches]
    trainer = make_trainer(tmp_path, ours(), **keys)
    model = trainer.model.train()
    added = []
    for balanced in (True, False):
        trainer.router_coefficient = 0.5 if balanced else 0.0
        model.config.output_router_logits = balanced
        monkeypatch.setattr(Accelerator, "num_processes", 2)
        of_each = [
            trainer.compute_loss(model, dict(batch), num_items_in_batch=sum(counts) if averaged else count)
            for batch, count in zip(batches, counts, strict=True)
        ]
        added.append(sum(of_each) / 2)
    losses = [model(batch["input_ids"], output_router_logits=True).aux_loss for batch in batches]
    shares = [count / sum(counts) for count in counts]
    expected = 0.5 * sum(share * loss for share, loss in zip(shares, losses, strict=True))
    torch.testing.assert_close(added[0] - added[1], expected, rtol=1e-3, atol=1e-5)


def plain_cross_entropy(model, rows) -> float:
    ids, labels = (torch.stack([row[name] for row in rows]) for name in ("input_ids", "labels"))
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100).item()


@CHUNKS
@pytest.mark.parametrize("make", [ours, mixtral, lambda: build(MODERN)], ids=["ours", "mixtral", "dense"])
def test_evaluation_reports_the_cross_entropy_alone(make, chunk, tmp_path):
    """Includes a short last batch, and rows with different numbers of targets."""
    model = make()
    keys = {"label_smoothing_factor": 0.3, "loss_chunk_size": chunk, "per_device_eval_batch_size": 3}
    keys |= {} if chunk is None else {"z_loss": 0.1}
    metrics = make_trainer(tmp_path, model, RAGGED, **keys).evaluate()
    assert metrics["eval_loss"] == pytest.approx(plain_cross_entropy(model, RAGGED), rel=1e-5)


@CHUNKS
@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("shape", [MODERN, EXPERTS], ids=["dense", "moe"])
def test_label_smoothing_is_transformers_own_on_the_next_tokens(shape, windows, chunk, tmp_path):
    model = build({**shape, "router_aux_loss_coef": 0.0, "router_z_loss_coef": 0.0}).train()
    ids = token_ids(2, 17)
    labels = ids.masked_fill(torch.rand(2, 17, generator=torch.Generator().manual_seed(0)) < 0.3, -100)
    logits = model(ids[:, :-1], use_cache=False).logits
    expected = LabelSmoother(0.2)({"logits": logits}, labels[:, 1:], num_items_in_batch=torch.tensor(50))
    batch = {"input_ids": ids[:, :-1], "labels": ids[:, :-1], "shift_labels": labels[:, 1:]}
    if not windows:
        batch = {"input_ids": ids, "labels": labels}
    trainer = make_trainer(tmp_path, model, label_smoothing_factor=0.2, loss_chunk_size=chunk)
    loss = trainer.compute_loss(trainer.model.train(), batch, num_items_in_batch=torch.tensor(50))
    torch.testing.assert_close(loss, expected)


def test_smoothing_leaves_the_router_losses_in(tmp_path):
    model = ours()
    batch = {name: column[None] for name, column in SAME_ROWS[0].items()}
    trainer = make_trainer(tmp_path, model, label_smoothing_factor=0.2)
    losses = []
    for coefficient in (0.5, 0.0):
        trainer.router_coefficient = coefficient
        losses.append(trainer.compute_loss(trainer.model.train(), dict(batch)))
    aux = trainer.model(batch["input_ids"], output_router_logits=True).aux_loss
    torch.testing.assert_close(losses[0] - losses[1], 0.5 * aux)


def test_other_rows_are_not_measured_in_bytes_of_the_validation_text(tmp_path):
    trainer = make_trainer(tmp_path, build(MODERN))
    trainer.eval_bytes = 100
    assert "eval_bits_per_byte" in trainer.evaluate()
    assert "eval_bits_per_byte" not in trainer.evaluate(RAGGED)


def test_the_default_warmup_is_a_hundredth_of_the_steps(tmp_path):
    rates = {}
    for name, keys in {"default": {}, "none": {"warmup_steps": 0}, "wsd": {}}.items():
        if name == "wsd":
            keys = {"lr_scheduler_type": "warmup_stable_decay", "decay_share": 1.0}
        trainer = make_trainer(tmp_path, build(MODERN), learning_rate=1.0, **keys)
        schedule = trainer.create_scheduler(400, trainer.create_optimizer())
        rates[name] = [schedule.lr_lambdas[0](step) for step in range(400)]
    assert rates["default"][:5] == [0, 0.25, 0.5, 0.75, 1]
    assert rates["none"][0] == 1
    assert rates["wsd"][:4] == [0, 0.25, 0.5, 0.75] and rates["wsd"][-1] < 0.01


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"output_router_logits": False, "router_aux_loss_coef": 0.25}, 0.25),
        ({"output_router_logits": False}, 0.0),
        ({"router_aux_loss_coef": 0.25}, 0.0),
    ],
    ids=["both", "no coefficient", "no routers"],
)
def test_only_a_model_that_returns_router_losses_has_a_weight_for_them(keys, expected):
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(**keys))
    assert router_coefficient(config) == expected


def test_a_micro_batchs_share_of_the_router_losses_by_hand():
    loss, targets = torch.tensor(8.0), torch.tensor(3)
    assert weighted_router_loss(loss, 0.25, targets, torch.tensor(12)) == 0.5
    assert weighted_router_loss(loss, 0.25, targets, 6) == 1.0
    assert weighted_router_loss(loss, 0.25, targets, None) == 2.0


@pytest.mark.parametrize("before", [True, False, None])
def test_completions_are_made_without_router_logits(before):
    text = SimpleNamespace() if before is None else SimpleNamespace(output_router_logits=before)
    model, kept = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text)), vars(text).copy()
    with pytest.raises(KeyError), no_router_logits(model):
        assert not getattr(text, "output_router_logits", False)
        raise KeyError
    assert vars(text) == kept

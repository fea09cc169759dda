"""A mixture of experts: its language-model loss, and its routers' losses at the weight that the config gives them.

The load balance is made of means over a micro-batch, multiplied: of different rows it is not the mean over
micro-batches. Of the same row, again and again, it is; so its weight is tried on copies of one row.
"""

from pathlib import Path

import ragged
import stage_cases
import torch
from compared import assert_close, assert_same_gradients
from packed_equality import gradients

from alignment.models.gpt.modeling_gpt import router_losses
from alignment.models.loading import load_trainable
from alignment.stages import pretrain, sft

LOUD = {"router_aux_loss_coef": 0.1, "router_z_loss_coef": 0.02, "output_router_logits": True}
TEXT = "zebra river stone lamp cloud apple door kite"


def parent(folder: Path) -> str:
    place = folder / "loud-moe"
    if not place.exists():
        words = ragged.tokenizer("ours")
        ragged.model("moe", words, **LOUD).save_pretrained(place)
        words.save_pretrained(place)
    return str(place)


def loud_loss(model, ids: list[int]) -> torch.Tensor:
    """Of one row: the mean over its tokens, and the routers' losses at their weight."""
    output = model(input_ids=torch.tensor([ids]), output_router_logits=True)
    routers = router_losses(output.router_logits, model.config)
    return stage_cases.token_losses(model, ids).mean() + model.config.router_aux_loss_coef * routers


def check_pretrain_weight(micro_batch: int, folder: Path, out: Path, **keys) -> None:
    """The routers' losses weigh the same in any micro-batches."""
    setting = stage_cases.Setting(micro_batch=micro_batch)
    words, model = ragged.tokenizer("ours"), load_trainable(parent(folder), "causal-lm")
    ids = [*words(TEXT)["input_ids"], words.eos_token_id]
    options = stage_cases.KEYS | setting.keys() | {"max_length": len(ids)} | keys
    args = pretrain.PretrainRecipe(str(out / "stage"), **options)
    data = stage_cases.data_of(out / "rows.jsonl", [{"text": TEXT}] * 8)
    watch = stage_cases.Watch()
    pretrain.run(pretrain.PretrainArguments(model_name_or_path=parent(folder)), data, args, [watch])
    stage_cases.assert_step(watch, model.train(), loud_loss(model, ids))


def check_sft_weight(micro_batch: int, folder: Path, out: Path) -> None:
    """The same in TRL's SFT, whose load balance is of all layers together and which has no z-loss."""
    steps = []
    for size in (8, micro_batch):
        setting = stage_cases.Setting(micro_batch=size)
        args = sft.SFTRecipe(str(out / str(size)), **stage_cases.KEYS | setting.keys() | {"max_length": 120})
        rows = [{"messages": ragged.ask("Kite?") + ragged.say(TEXT)}] * 8
        data = stage_cases.data_of(out / f"{size}.jsonl", rows)
        model_args = stage_cases.ModelArguments(parent(folder))
        steps.append(stage_cases.first_step(sft.make_trainer(args, data, model_args, out / str(size))[0]))
    assert_close(steps[1].logged("loss")[:1], steps[0].logged("loss")[:1], "the loss", 1e-4)
    assert_same_gradients(steps[1].gradients, steps[0].gradients, "gradients")


def check_eval_loss(batch_size: int, folder: Path, out: Path) -> None:
    """The validation loss is the language model's alone, over all tokens."""
    case = stage_cases.Case(model="loud-moe")
    place = folder / f"{case.model}-{case.tokenizer}"  # where `base_of` looks
    if not place.exists():
        place.symlink_to(parent(folder))
    stage_cases.check_validation(case, batch_size, folder, out)


def check_padding(folder: Path) -> None:
    """The routers' losses are of tokens, not of padding, on whichever side."""
    model, words = load_trainable(parent(folder), "causal-lm"), ragged.tokenizer("ours")
    ids = words(TEXT)["input_ids"]
    losses, grads = [], []
    for left, right in [(0, 0), (0, 5), (5, 0)]:
        row = torch.tensor([[words.pad_token_id] * left + ids + [words.pad_token_id] * right])
        mask = torch.tensor([[0] * left + [1] * len(ids) + [0] * right])
        output = model(input_ids=row, attention_mask=mask, output_router_logits=True)
        losses.append(output.aux_loss.item())
        grads.append(gradients(model, output.aux_loss))
    assert_close(losses, losses[:1] * 3, "the routers' losses")
    for one in grads[1:]:
        assert_same_gradients(one, grads[0], "gradients of the routers' losses")

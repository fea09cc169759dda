"""The first loss is what a plain computation gives, a row at a time: no padding, no neighbours, no trainer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from alignment.data.encoding import encode_conversation, encode_pair, training_template
from alignment.stages.self_check.check import Check, Outcome, moved_weights, tolerance
from alignment.trainers.ppo_models import inner

ROWS = 4  # of the first micro-batch
IGNORED = -100


def first_rows(trainer: Trainer) -> list[dict[str, Any]]:
    """The training set's first rows, as many as a micro-batch has, but no more than are needed."""
    count = min(ROWS, trainer.args.per_device_train_batch_size, len(trainer.train_dataset))
    return [trainer.train_dataset[index] for index in range(count)]


def trainers_loss(trainer: Trainer, rows: Sequence[dict[str, Any]]) -> tuple[float, dict[str, float]]:
    """The loss of rows by the trainer's own path in evaluation mode, and what TRL's trainers measured on the way."""
    batch = trainer._prepare_inputs(trainer.data_collator(list(rows)))  # Trainer's hook, which TRL's GRPO samples in
    loss = trainer.compute_loss(trainer.model, batch)
    measured = getattr(trainer, "_metrics", {})  # TRL keeps its own figures here until it logs; nothing else holds them
    return float(loss), {name: values[-1] for name, values in measured.get("eval", {}).items() if values}


def check_language_model_loss(trainer: Trainer) -> Iterator[Outcome]:
    """The mean loss over the labels of some rows, against each of their documents alone."""
    rows = first_rows(trainer)
    if any(not isinstance(row.get("labels", row.get("input_ids")), list | Tensor) for row in rows):
        return
    found, measured = trainers_loss(trainer, rows)
    found -= router_loss(trainer, measured)
    total, count = 0.0, 0
    for ids, targets in [document for row in rows for document in documents_of(row)]:
        lost, counted = document_loss(trainer.model, ids, targets)
        total, count = total + lost, count + counted
    if count and math.isfinite(total):  # of rows without a finite loss the guard in training tells more
        yield Outcome(
            "first loss = plain loss",
            abs(found - total / count),
            loss_tolerance(trainer, total / count),
            failure="the trainer's loss is not that of its rows, each read alone",
            mend="packing: false and padding_free: false, or another attn_implementation",
        )


def loss_tolerance(trainer: Trainer, loss: float) -> float:
    """The rounding of a mean over many tokens, smaller than a token's."""
    return 0.05 * tolerance(trainer) * max(1.0, loss)


def router_loss(trainer: Trainer, measured: dict[str, float]) -> float:
    """What TRL adds to the loss for a mixture of experts."""
    weight = getattr(inner(trainer.model).config.get_text_config(), "router_aux_loss_coef", 0.0) or 0.0
    return weight * measured.get("aux_loss", 0.0)


def documents_of(row: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids, targets: the token to predict at each of them) of the documents of a row, one or several packed ones."""
    ids = torch.as_tensor(row["input_ids"])
    if "shift_labels" in row:  # a window of the text, whose last target is the token after it
        yield ids, torch.as_tensor(row["shift_labels"])
        return
    labels = torch.as_tensor(row.get("labels", row["input_ids"]))
    lengths = row.get("seq_lengths", [len(ids)])
    if "position_ids" in row:
        starts = (torch.as_tensor(row["position_ids"]) == 0).nonzero()[:, 0].tolist()
        lengths = [end - start for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]
    for part, own in zip(ids.split(lengths), labels.split(lengths), strict=True):
        yield part, nn.functional.pad(own[1:], (0, 1), value=IGNORED)


def document_loss(model: nn.Module, ids: Tensor, targets: Tensor) -> tuple[float, int]:
    """The sum over a document's targets of their negative log-likelihood, and how many there are."""
    count = int((targets != IGNORED).sum())
    if not count:
        return 0.0, 0
    device = device_of(model)
    logits = model(input_ids=ids[None].to(device), use_cache=False).logits[0].float()
    lost = nn.functional.cross_entropy(logits, targets.to(device), ignore_index=IGNORED, reduction="sum")
    return float(lost), count


def device_of(model: nn.Module) -> torch.device:
    return inner(model).get_input_embeddings().weight.device


def check_preference_loss(trainer: Trainer) -> Iterator[Outcome]:
    """The reward model's loss on some pairs, against the scores of each row alone."""
    rows = first_rows(trainer)
    found, _ = trainers_loss(trainer, rows)
    pairs = torch.tensor([[score(trainer.model, row[side]) for side in ("chosen_ids", "rejected_ids")] for row in rows])
    expected = -nn.functional.logsigmoid(pairs[:, 0] - pairs[:, 1]).mean()
    if trainer.args.center_rewards_coefficient is not None:
        expected += trainer.args.center_rewards_coefficient * (pairs.sum(1) ** 2).mean()
    yield Outcome(
        "first loss = plain loss",
        abs(found - float(expected)),
        loss_tolerance(trainer, float(expected)),
        failure="the trainer's loss is not that of its pairs, each row scored alone",
        mend="another attn_implementation; a padding token that is not the end-of-sequence token",
    )


def score(model: nn.Module, ids: Sequence[int]) -> float:
    return float(model(input_ids=torch.tensor([ids], device=device_of(model)), use_cache=False).logits[0, 0])


def check_no_margin(trainer: Trainer) -> Iterator[Outcome]:
    """DPO starts from its reference: neither reply's implicit reward has moved."""
    rows = first_rows(trainer)
    _, measured = trainers_loss(trainer, rows)
    length = max(len(row[side]) for row in rows for side in ("chosen_ids", "rejected_ids"))
    rewards = max(abs(measured[f"rewards/{side}"]) for side in ("chosen", "rejected"))
    yield Outcome(
        "margins 0",
        rewards,
        trainer.beta * tolerance(trainer) * length,
        failure="DPO's reference is not the model that training starts from",
        mend="start from the checkpoint that the reference is",
    )
    with moved_weights(trainer.model):
        _, moved = trainers_loss(trainer, rows)
    yield Outcome(
        "trained weights move the policy alone",
        float(all(moved[f"rewards/{side}"] == measured[f"rewards/{side}"] for side in ("chosen", "rejected"))),
        failure="moving the trained weights moves no implicit reward",
        mend="see that the policy runs the trained adapter, and that the reference does not",
    )


def tokens_shown(conversations: Sequence[dict[str, Any]]) -> Check:
    """The check that an SFT trainer learns the tokens that `align check` shows of these rows."""

    def check(trainer: Trainer) -> Iterator[Outcome]:
        args, tokenizer = trainer.args, trainer.processing_class
        if args.packing:
            return  # rows are no longer in order
        template, marks = training_template(tokenizer, args.assistant_only_loss)
        different = 0
        for index, row in enumerate(first_rows(trainer)):
            shown = encode_conversation(index, conversations[index]["messages"], tokenizer, marks, template)
            labels = [token if kept else IGNORED for token, kept in zip(shown.ids, shown.learned, strict=True)]
            ids, own = list(row["input_ids"]), list(row.get("labels", row["input_ids"]))
            different += ids != shown.ids[: len(ids)] or own != labels[: len(own)]
        yield Outcome(
            "tokens and labels as align check shows them",
            different,
            failure="the trainer's tokens or labels are not those that align check shows",
        )

    return check


def pairs_shown(pairs: Sequence[dict[str, Any]]) -> Check:
    """The check that a reward trainer reads the rows that `align check` shows, and that later readers will make."""

    def check(trainer: Trainer) -> Iterator[Outcome]:
        different = 0
        dropped = len(pairs) != len(trainer.train_dataset)  # TRL leaves out pairs that are too long
        for index, row in enumerate([] if dropped else first_rows(trainer)):
            shown = encode_pair(index, pairs[index], trainer.processing_class)
            different += list(row["chosen_ids"]) != shown.chosen or list(row["rejected_ids"]) != shown.rejected
        yield Outcome(
            "rows as align check shows them",
            different,
            failure="the trainer's rows are not those that align check shows",
        )

    return check

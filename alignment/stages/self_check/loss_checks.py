"""Compare the first loss with a plain computation, one row at a time: no padding, no neighbours, no trainer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from alignment.data.reading.row_formats import MARGIN
from alignment.data.tokenizing.encoding import Pair, encode_pair, encode_turns, training_template
from alignment.stages.self_check.prove import SAME_PASS, Check, Outcome, moved_weights, tolerance
from alignment.trainers.ppo.models import inner
from alignment.trainers.soft_labels import PROBABILITY

ROWS = 4  # rows of the first micro-batch to look at
PACKED = 1000  # conversations to search for those in packed rows
IGNORED = -100
SIDES = ("chosen", "rejected")


def first_rows(trainer: Trainer) -> list[dict[str, Any]]:
    """Return the first training rows: a micro-batch, at most ROWS."""
    count = min(ROWS, trainer.args.per_device_train_batch_size, len(trainer.train_dataset))
    return [trainer.train_dataset[index] for index in range(count)]


def trainers_loss(trainer: Trainer, rows: Sequence[dict[str, Any]]) -> tuple[float, dict[str, float]]:
    """Return the trainer's own loss of rows in evaluation mode, and the metrics that TRL computed with it."""
    batch = trainer._prepare_inputs(trainer.data_collator(list(rows)))  # Trainer's hook, in which TRL's GRPO samples
    loss = trainer.compute_loss(trainer.model, batch)
    measured = getattr(trainer, "_metrics", {})  # TRL's metrics since its last log; no public name holds them
    return float(loss), {name: values[-1] for name, values in measured.get("eval", {}).items() if values}


def loss_tolerance(trainer: Trainer, loss: float) -> float:
    """Return the rounding of a loss: a mean over many tokens rounds less than a single token."""
    return 0.05 * tolerance(trainer) * max(1.0, loss)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's input embeddings."""
    return inner(model).get_input_embeddings().weight.device


# ---- Language modelling ----


def check_language_model_loss(trainer: Trainer) -> Iterator[Outcome]:
    """Compare the trainer's loss of some rows with that of each of their documents read alone."""
    rows = first_rows(trainer)
    if not rows or not is_cross_entropy(trainer):
        return
    found, measured = trainers_loss(trainer, rows)
    found -= router_loss(trainer, measured)
    total, count = 0.0, 0
    for ids, targets in [document for row in rows for document in documents_of(row)]:
        lost, counted = document_loss(trainer.model, ids, targets)
        total, count = total + lost, count + counted
    if count and math.isfinite(total):  # FiniteGuard reports rows without a finite loss
        yield Outcome(
            "first loss = plain loss",
            abs(found - total / count),
            loss_tolerance(trainer, total / count),
            failure="the trainer's loss differs from that of its rows, each read alone",
            fix="packing: false and padding_free: false, or another attn_implementation",
        )


def is_cross_entropy(trainer: Trainer) -> bool:
    """Whether the loss in evaluation is plain cross-entropy: TRL's SFT has others, and smooths labels there too."""
    kind = getattr(trainer.args, "loss_type", None)
    return kind is None or (kind in ("nll", "chunked_nll") and not trainer.args.label_smoothing_factor)


def router_loss(trainer: Trainer, measured: dict[str, float]) -> float:
    """Return the load-balancing term that TRL adds to the loss of a mixture of experts."""
    weight = getattr(inner(trainer.model).config.get_text_config(), "router_aux_loss_coef", 0.0) or 0.0
    return weight * measured.get("aux_loss", 0.0)


def documents_of(row: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (ids, targets) of each document of a row, packed or single; a target is the next token, or IGNORED."""
    if "shift_labels" in row:  # a window of text; its last target is the token after the window
        yield torch.as_tensor(row["input_ids"]), torch.as_tensor(row["shift_labels"])
        return
    for ids, labels in labelled(row):
        yield ids, nn.functional.pad(labels[1:], (0, 1), value=IGNORED)


def labelled(row: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (ids, labels) of each document of a row."""
    ids, labels = torch.as_tensor(row["input_ids"]), torch.as_tensor(row.get("labels", row["input_ids"]))
    lengths = row.get("seq_lengths", [len(ids)])
    if "position_ids" in row:
        starts = (torch.as_tensor(row["position_ids"]) == 0).nonzero()[:, 0].tolist()
        lengths = [end - start for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]
    yield from zip(ids.split(lengths), labels.split(lengths), strict=True)


def document_loss(model: nn.Module, ids: Tensor, targets: Tensor) -> tuple[float, int]:
    """Return the summed negative log-likelihood of a document's targets, and their number."""
    count = int((targets != IGNORED).sum())
    if not count:
        return 0.0, 0
    device = device_of(model)
    logits = model(input_ids=ids[None].to(device), use_cache=False).logits[0].float()
    lost = nn.functional.cross_entropy(logits, targets.to(device), ignore_index=IGNORED, reduction="sum")
    return float(lost), count


def tokens_shown(conversations: Sequence[dict[str, Any]]) -> Check:
    """Return the check that an SFT trainer learns the tokens that `align check` shows for these rows."""

    def check(trainer: Trainer) -> Iterator[Outcome]:
        shown = shown_rows(trainer, conversations)
        rows = [document for row in first_rows(trainer) for document in labelled(row)]
        pairs = [(ids.tolist(), labels.tolist()) for ids, labels in rows]
        if trainer.args.packing:  # rows are reordered, and some are cut
            known = {tuple(ids): labels for ids, labels in (next(shown, ([], [])) for _ in range(PACKED))}
            compared = [labels != known[tuple(ids)] for ids, labels in pairs if tuple(ids) in known]
        else:
            compared = [pair != next(shown, None) for pair in pairs]
        if compared:
            yield Outcome(
                f"tokens and labels of {len(compared)} rows as align check shows them",
                sum(compared),
                failure="the trainer's tokens or labels differ from those that align check shows",
            )

    return check


def shown_rows(trainer: Trainer, conversations: Sequence[dict[str, Any]]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield (ids, labels) as `align check` shows them, cut to max_length; like TRL, without rows that lack labels."""
    args, tokenizer = trainer.args, trainer.processing_class
    template, marks = training_template(tokenizer, args.assistant_only_loss)
    keep_end = getattr(args, "truncation_mode", "keep_start") == "keep_end"
    kept = slice(-args.max_length if args.max_length and keep_end else None, None if keep_end else args.max_length)
    for index, row in enumerate(conversations):
        for encoded in encode_turns(index, row["messages"], tokenizer, marks, template):
            labels = [
                token if learned else IGNORED for token, learned in zip(encoded.ids, encoded.learned, strict=True)
            ]
            if any(label != IGNORED for label in labels[kept]):
                yield encoded.ids[kept], labels[kept]


# ---- Reward models ----


def check_reward_loss(trainer: Trainer) -> Iterator[Outcome]:
    """Compare the reward model's loss on some pairs with the loss from each reply scored alone."""
    rows = first_rows(trainer)
    if not rows:
        return
    found, _ = trainers_loss(trainer, rows)
    pairs = torch.tensor([[score(trainer.model, row[f"{side}_ids"]) for side in SIDES] for row in rows])
    margins = torch.tensor([row.get(MARGIN, 0.0) for row in rows])
    right = torch.tensor([row.get(PROBABILITY, 1.0) for row in rows])
    logits = pairs[:, 0] - pairs[:, 1] - margins
    expected = (-right * nn.functional.logsigmoid(logits) - (1 - right) * nn.functional.logsigmoid(-logits)).mean()
    if trainer.args.center_rewards_coefficient is not None:
        expected += trainer.args.center_rewards_coefficient * (pairs.sum(1) ** 2).mean()
    if not math.isfinite(expected):
        return
    yield Outcome(
        "first loss = plain loss",
        abs(found - float(expected)),
        loss_tolerance(trainer, float(expected)),
        failure="the trainer's loss differs from that of its pairs, each reply scored alone",
        fix="another attn_implementation; a padding token that is not the end-of-sequence token",
    )


def score(model: nn.Module, ids: Sequence[int]) -> float:
    """Return a reward model's score of one row."""
    return float(model(input_ids=torch.tensor([ids], device=device_of(model)), use_cache=False).logits[0, 0])


def pairs_shown(pairs: Sequence[dict[str, Any]]) -> Check:
    """Return the check that a reward trainer reads the rows that `align check` shows."""

    def check(trainer: Trainer) -> Iterator[Outcome]:
        shown, rows = shown_pairs(trainer, pairs), first_rows(trainer)
        different = 0
        for row in rows:
            pair = next(shown, None)
            different += pair is None or [list(row[f"{side}_ids"]) for side in SIDES] != [pair.chosen, pair.rejected]
        if rows:
            yield Outcome(
                f"{len(rows)} rows as align check shows them",
                different,
                failure="the trainer's rows differ from those that align check shows",
            )

    return check


def shown_pairs(trainer: Trainer, pairs: Sequence[dict[str, Any]]) -> Iterator[Pair]:
    """Yield pairs as `align check` shows them; like TRL, without pairs that have a reply beyond max_length."""
    most = trainer.args.max_length or math.inf
    for index, row in enumerate(pairs):
        pair = encode_pair(index, row, trainer.processing_class)
        if max(len(pair.chosen), len(pair.rejected)) <= most:
            yield pair


# ---- DPO ----


def check_starts_at_reference(trainer: Trainer) -> Iterator[Outcome]:
    """Check that DPO and KTO start from their reference, with implicit rewards 0 that move with the policy."""
    rows = first_rows(trainer)
    if not rows:
        return
    _, measured = trainers_loss(trainer, rows)
    sides = [side for side in SIDES if f"rewards/{side}" in measured]  # KTO's rows may all have one label
    length = max(len(ids) for row in rows for ids in replies_of(row).values())
    rewards = max(abs(measured[f"rewards/{side}"]) for side in sides)
    yield Outcome(
        "margins 0",
        max(rewards, trainer.beta * abs(measured.get("kl", 0.0))),
        trainer.beta * SAME_PASS * length,
        failure="the reference differs from the model that training starts from",
        fix="start training from the reference's checkpoint",
    )
    yield from check_replies(trainer, rows, measured)
    with moved_weights(trainer.model):
        _, moved = trainers_loss(trainer, rows)
    policy = [moved[f"logps/{side}"] != measured[f"logps/{side}"] for side in sides]
    apart = [moved[f"rewards/{side}"] != measured[f"rewards/{side}"] for side in sides] if trainer.beta else policy
    yield Outcome(
        "trained weights move the policy alone",
        float(not (any(policy) and any(apart))),
        failure="changing the trained weights changes "
        + ("the reference along with the policy" if any(policy) else "no log-probability"),
        fix="check that the policy runs the trained adapter, and that the reference does not",
    )


def replies_of(row: dict[str, Any]) -> dict[str, list[int]]:
    """Return the token ids of a row's replies by side: both sides of a pair (DPO), or the labelled side (KTO)."""
    if "completion_ids" in row:
        return {"chosen" if row["label"] else "rejected": row["completion_ids"]}
    return {side: row[f"{side}_ids"] for side in SIDES}


def check_replies(trainer: Trainer, rows: Sequence[dict[str, Any]], measured: dict[str, float]) -> Iterator[Outcome]:
    """Compare the log-probabilities of chosen and rejected replies with those of each reply read alone."""
    most = trainer.args.max_length or math.inf
    replies = [(side, row["prompt_ids"], ids) for row in rows for side, ids in replies_of(row).items()]
    if getattr(trainer.args, "ld_alpha", None) is not None:
        return  # DPO weights the tokens beyond the shorter reply's length
    if max(len(prompt) + len(ids) for _, prompt, ids in replies) > most:
        return
    for side in SIDES:
        own = [(prompt, ids) for name, prompt, ids in replies if name == side]
        plain, length = 0.0, 0
        for prompt, reply in own:
            ids = torch.tensor([*prompt, *reply])
            targets = nn.functional.pad(ids[1:], (0, 1), value=IGNORED)
            targets[: len(prompt) - 1] = IGNORED
            lost, count = document_loss(trainer.model, ids, targets)
            plain, length = plain - lost / len(own), max(length, count)
        if own:
            yield Outcome(
                f"log-probabilities of {side} replies = plain ones",
                abs(measured[f"logps/{side}"] - plain),
                0.1 * tolerance(trainer) * length,
                failure=f"the log-probabilities of the {side} replies differ from those of each reply read alone",
                fix="padding_free: false, or another attn_implementation",
            )

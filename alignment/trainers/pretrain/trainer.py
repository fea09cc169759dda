"""Causal language modelling on packed documents, on transformers' Trainer."""

import math
from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerControl, TrainingArguments
from transformers.utils import logging

from alignment.errors import UserError, raise_all
from alignment.models.router import router_coefficient, weighted_router_loss
from alignment.models.speed import speed_up
from alignment.trainers.pretrain.chunked_loss import IGNORED, linear_cross_entropy, plain_head, softcap_of
from alignment.trainers.pretrain.muon import MuonAdamW, hidden_matrices
from alignment.trainers.sharding import sharding

logger = logging.get_logger(__name__)

WSD = "warmup_stable_decay"
ADAMW = ("adamw_torch", "adamw_torch_fused")


@dataclass
class PretrainConfig(TrainingArguments):
    """`TrainingArguments` with the defaults of pretraining (Brown et al. 2020: beta2 0.95, weight decay 0.1)."""

    learning_rate: float = field(default=6e-4, metadata={"help": "Peak learning rate."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Second-moment decay of AdamW."})
    weight_decay: float = field(default=0.1, metadata={"help": "Weight decay, on matrices only."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(
        default=0.01, metadata={"help": "Number of steps of linear warmup from 0; below 1: their share of all steps."}
    )
    include_num_input_tokens_seen: str | bool = field(default="all", metadata={"help": "Count the tokens trained on."})
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens per packed row; default: the tokenizer's model_max_length."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Rows have no unused columns."})
    window_stride: int | None = field(
        default=None,
        metadata={
            "help": "Rows are windows of text that start every so many tokens; default: whole documents, packed."
        },
    )
    decay_share: float | None = field(
        default=None,
        metadata={"help": "Share of the steps in which warmup_stable_decay falls linearly to zero (WSD)."},
    )
    muon: bool = field(
        default=False,
        metadata={"help": "Train hidden matrices with Muon; embeddings, output, norms, biases with AdamW."},
    )
    muon_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of Muon, on AdamW's scale; default: learning_rate."}
    )
    muon_momentum: float = field(default=0.95, metadata={"help": "Momentum of Muon."})
    loss_chunk_size: int | None = field(
        default=None,
        metadata={"help": "Tokens whose logits are computed at once; default: all tokens of a batch."},
    )
    z_loss: float = field(
        default=0.0,
        metadata={"help": "Weight of the squared log normaliser in training; needs loss_chunk_size."},
    )
    attention_in_float32: bool | None = field(
        default=None,
        metadata={"help": "Compute sdpa attention in 32 bit under bf16; default: on a CPU, where it is faster."},
    )
    compile_layers: bool = field(
        default=False,
        metadata={"help": "Compile layers instead of the model (torch_compile): equal layers are compiled once."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        errors = []
        if self.decay_share is not None and (self.lr_scheduler_type != WSD or not 0 < self.decay_share <= 1):
            got = f"decay_share={self.decay_share}, lr_scheduler_type={self.lr_scheduler_type}"
            expected = f"more than 0, at most 1, with lr_scheduler_type: {WSD}"
            errors.append(UserError("decay_share does not fit the learning rate schedule.", got=got, expected=expected))
        if self.muon and self.optim not in ADAMW:
            expected = "optim: " + " or ".join(ADAMW)
            errors.append(
                UserError("Muon can only be combined with AdamW.", got=f"optim={self.optim}", expected=expected)
            )
        if self.muon and (splits := sharding(self)) is not None:
            errors.append(not_whole(splits))
        if self.window_stride is not None and self.window_stride < 1:
            errors.append(UserError("window_stride is too small.", got=self.window_stride, expected="at least 1"))
        if self.loss_chunk_size is not None and self.loss_chunk_size < 1:
            errors.append(UserError("loss_chunk_size is too small.", got=self.loss_chunk_size, expected="at least 1"))
        if self.z_loss and self.loss_chunk_size is None:
            errors.append(UserError("z_loss needs the chunked loss.", fix="set loss_chunk_size, such as 2048"))
        raise_all(errors)


def not_whole(splits: str) -> UserError:
    return UserError("Muon needs whole matrices.", got=f"{splits}, which splits them", fix="set muon: false")


class PretrainTrainer(Trainer):
    """Trains on packed rows {input_ids, position_ids, labels}, whose position_ids restart at each document, or windows.

    The loss of a step is the mean over its targets, plus the router losses weighted by their coefficient (see
    `alignment.models.router`). Evaluations report the cross-entropy without router losses, z-loss or label smoothing.

    Args:
        eval_bytes: number of UTF-8 bytes of the validation text; if given, evaluations also report bits per byte.
        eval_text: rows that score the tokens of the validation text (`ScoredTexts`); default: the rows of eval_dataset.
    """

    control: TrainerControl
    optimizer: torch.optim.Optimizer | None

    def __init__(
        self, *args: Any, eval_bytes: int | None = None, eval_text: Dataset | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.args.muon and (splits := sharding(self.args, self.accelerator)) is not None:
            raise not_whole(splits)
        self.eval_bytes, self.eval_text = eval_bytes, eval_text
        config = self.model.config.get_text_config()
        # None, the GPT's default, means in training.
        asks = getattr(config, "output_router_logits", False) is not False
        self.router_coefficient = router_coefficient(config) if asks else 0.0
        self.chunks_loss = self.args.loss_chunk_size is not None and self._can_chunk()
        speed_up(self.model, self.args)

    def _can_chunk(self) -> bool:
        reason = "FSDP splits the output layer" if self.is_fsdp_enabled else plain_head(self.model)
        if reason is not None:
            logger.warning("loss_chunk_size has no effect: %s", reason)
        return reason is None

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if not self.args.muon or self.optimizer is not None:
            return super().create_optimizer(model)
        model = self.model if model is None else model
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        matrices, decayed = hidden_matrices(model), set(self.get_decay_parameter_names(model))
        args = self.args
        muon_group = {
            "params": [trained[name] for name in trained if name in matrices],
            "lr": args.learning_rate if args.muon_learning_rate is None else args.muon_learning_rate,
            "momentum": args.muon_momentum,
            "weight_decay": args.weight_decay,
        }
        others = [name for name in trained if name not in matrices]
        groups = [
            {"params": [trained[name] for name in others if name in decayed], "weight_decay": args.weight_decay},
            {"params": [trained[name] for name in others if name not in decayed], "weight_decay": 0.0},
        ]
        _, adamw = self.get_optimizer_cls_and_kwargs(args, model)
        self.optimizer = MuonAdamW(muon_group, [group for group in groups if group["params"]], **adamw)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        if self.args.decay_share is not None:
            steps = round(self.args.decay_share * num_training_steps)
            self.args.lr_scheduler_kwargs = {"num_decay_steps": steps, "decay_type": "linear"}
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        # Only without a cache does the model read the document boundaries from position_ids.
        inputs = {**inputs, "use_cache": False}
        # accelerate's autocast converts all outputs of a forward pass to 32 bit, including the unused logits.
        self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        with self.accelerator.autocast():
            if not (self.chunks_loss or self.router_coefficient or self.args.label_smoothing_factor):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            loss, outputs = self._loss(model, inputs, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _loss(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any) -> tuple[Tensor, Any]:
        """The loss with chunks, label smoothing and weighted router losses, and the model's outputs."""
        labels, targets = inputs.pop("labels"), inputs.pop("shift_labels", None)
        if targets is None:
            targets = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
        if self.router_coefficient:
            inputs["output_router_logits"] = model.training
        total, outputs = (self._chunked_sum if self.chunks_loss else self._whole_sum)(model, inputs, targets)
        counted = (targets != IGNORED).sum()
        loss = total / (counted if num_items_in_batch is None else num_items_in_batch)
        if self.router_coefficient and model.training:
            loss = loss + weighted_router_loss(outputs.aux_loss, self.router_coefficient, counted, num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # Gradients are averaged over the processes; the processes of a tensor-parallel group have the same rows.
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        return loss, outputs

    def _smoothing(self, model: nn.Module) -> float:
        return self.args.label_smoothing_factor if model.training else 0.0

    def _whole_sum(self, model: nn.Module, inputs: dict[str, Any], targets: Tensor) -> tuple[Tensor, Any]:
        """Sum of the targets' losses from all logits at once, and the model's outputs."""
        outputs = model(**inputs)
        logits, targets = outputs.logits.float().flatten(0, 1), targets.flatten().to(outputs.logits.device)
        loss = torch.nn.functional.cross_entropy(
            logits, targets, ignore_index=IGNORED, reduction="sum", label_smoothing=self._smoothing(model)
        )
        return loss, outputs

    def _chunked_sum(self, model: nn.Module, inputs: dict[str, Any], targets: Tensor) -> tuple[Tensor, Any]:
        """`_whole_sum` computed chunk by chunk, with the z-loss in training."""
        none = torch.empty(0, dtype=torch.long, device=targets.device)
        outputs = model(**inputs, logits_to_keep=none, output_hidden_states=True)
        plain = self.accelerator.unwrap_model(model)
        total = linear_cross_entropy(
            outputs.hidden_states[-1].flatten(0, 1),
            plain.get_output_embeddings().weight,
            targets.flatten(),
            self.args.loss_chunk_size,
            softcap=softcap_of(plain),
            z_loss=self.args.z_loss if model.training else 0.0,
            smoothing=self._smoothing(model),
        )
        return total, outputs

    def _sums(self, *values: float) -> list[float]:
        """Sums of the values over all processes."""
        local = torch.tensor(values, dtype=torch.float64, device=self.args.device)
        return self.accelerator.reduce(local, "sum").tolist()

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Report the mean cross-entropy per target (EOS tokens included), and bits per byte of the validation text.

        Trainer would average the means of batches, in which a short last batch counts as much as a full batch.
        """
        total, tokens = self._summed_loss(self.get_eval_dataloader(eval_dataset))
        metrics = {f"{metric_key_prefix}_loss": total / tokens}
        if self.eval_bytes and eval_dataset is None:
            if self.eval_text is not None:
                total, _ = self._summed_loss(self.get_test_dataloader(self.eval_text))
            metrics[f"{metric_key_prefix}_bits_per_byte"] = total / math.log(2) / self.eval_bytes
        self.log(dict(metrics))  # a copy, since Trainer adds keys
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _summed_loss(self, dataloader: DataLoader) -> tuple[float, int]:
        """Sum of the losses over the targets of all processes, in nats, and the number of targets."""
        model = self.model.eval()
        self.callback_handler.eval_dataloader = dataloader
        total, tokens = 0.0, 0
        state, rows = self.accelerator.state, len(cast(Sized, dataloader.dataset))
        for index, inputs in enumerate(dataloader):
            # Processes take batches in turn; rows from the front fill up the last batches.
            first = (index * state.num_processes + state.process_index) * self.args.eval_batch_size
            for name in inputs.keys() & {"labels", "shift_labels"}:
                inputs[name] = inputs[name].index_fill(0, _beyond(inputs[name], rows - first), IGNORED)
            targets = inputs["shift_labels"] if "shift_labels" in inputs else inputs["labels"][:, 1:]
            counted = int((targets != IGNORED).sum())
            with torch.no_grad():
                loss = self.compute_loss(model, self._prepare_inputs(inputs)).item()
            total += loss * counted if counted else 0.0
            tokens += counted
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        model.train()
        total, count = self._sums(total, tokens)
        return total, int(count)


def _beyond(rows: Tensor, count: int) -> Tensor:
    """Indices of the rows after the first `count`."""
    return torch.arange(max(0, min(count, len(rows))), len(rows), device=rows.device)

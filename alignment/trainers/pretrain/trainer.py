"""Causal language modelling on packed documents, on transformers' Trainer."""

import math
from dataclasses import dataclass, field

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from alignment.errors import UserError, raise_all
from alignment.models.router import router_coefficient, weighted_router_loss
from alignment.models.speed import speed_up
from alignment.trainers.pretrain.chunked_loss import IGNORED, linear_cross_entropy, plain_head, softcap_of
from alignment.trainers.pretrain.muon import MuonAdamW, hidden_matrices

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
        default=0.01, metadata={"help": "Steps in which the rate rises from 0 in a line; below 1: their share of all."}
    )
    include_num_input_tokens_seen: str | bool = field(default="all", metadata={"help": "Count the tokens trained on."})
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens in a packed row; default: the tokenizer's model_max_length."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Rows have nothing that is not used."})
    window_stride: int | None = field(
        default=None,
        metadata={"help": "Rows are windows of the text, one every so many tokens; default: documents packed whole."},
    )
    decay_share: float | None = field(
        default=None,
        metadata={"help": "Share of the steps in which warmup_stable_decay falls to zero, in a line (WSD)."},
    )
    muon: bool = field(
        default=False, metadata={"help": "Muon for the hidden matrices; AdamW keeps embeddings, output, norms, biases."}
    )
    muon_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of Muon, in AdamW's unit; default: learning_rate."}
    )
    muon_momentum: float = field(default=0.95, metadata={"help": "Momentum of Muon."})
    loss_chunk_size: int | None = field(
        default=None, metadata={"help": "Tokens whose logits exist at a time; default: all logits of a batch at once."}
    )
    z_loss: float = field(
        default=0.0, metadata={"help": "Weight of the squared log normaliser in training; needs loss_chunk_size."}
    )
    attention_in_float32: bool | None = field(
        default=None, metadata={"help": "With bf16: sdpa attention in 32 bit; default: on a CPU, where it is faster."}
    )
    compile_layers: bool = field(
        default=False,
        metadata={"help": "Compile the layers, not the model as torch_compile does: alike layers are compiled once."},
    )

    def __post_init__(self):
        super().__post_init__()
        errors = []
        if self.decay_share is not None and (self.lr_scheduler_type != WSD or not 0 < self.decay_share <= 1):
            got = f"decay_share={self.decay_share}, lr_scheduler_type={self.lr_scheduler_type}"
            errors.append(UserError("decay_share is the share of WSD", got=got, expected=f"0 to 1, with {WSD}"))
        if self.muon and self.optim not in ADAMW:
            errors.append(UserError("Muon goes with AdamW", got=f"optim={self.optim}", expected=" or ".join(ADAMW)))
        if self.muon and (self.fsdp or self.deepspeed):
            errors.append(
                UserError("Muon needs whole matrices", got="FSDP or DeepSpeed, which split them", fix="muon: false")
            )
        if self.window_stride is not None and self.window_stride < 1:
            errors.append(UserError("window_stride is too small", got=self.window_stride, expected="at least 1"))
        if self.loss_chunk_size is not None and self.loss_chunk_size < 1:
            errors.append(UserError("loss_chunk_size is too small", got=self.loss_chunk_size, expected="at least 1"))
        if self.z_loss and self.loss_chunk_size is None:
            errors.append(UserError("z_loss is part of the chunked loss", fix="set loss_chunk_size, such as 2048"))
        raise_all(errors)


class PretrainTrainer(Trainer):
    """Trains on rows {input_ids, position_ids, labels} whose position_ids restart at each document, or on windows.

    The loss of a step is a mean over its targets, plus the router losses with a weight of exactly their coefficient
    (see `alignment.models.router`). Evaluation is the cross-entropy alone: no router losses, z-loss or label smoothing.

    Args:
        eval_bytes: UTF-8 bytes of the validation text; with it evaluations report bits per byte too.
        eval_text: rows that score that text's tokens (`ScoredTexts`); default: the rows of eval_dataset.
    """

    def __init__(self, *args, eval_bytes: int | None = None, eval_text: Dataset | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_bytes, self.eval_text = eval_bytes, eval_text
        config = self.model.config.get_text_config()
        self.router_coefficient = router_coefficient(config) if getattr(config, "output_router_logits", False) else 0.0
        self.chunks_loss = self.args.loss_chunk_size is not None and self._can_chunk()
        speed_up(self.model, self.args)

    def _can_chunk(self) -> bool:
        reason = "FSDP holds no whole output layer" if self.is_fsdp_enabled else plain_head(self.model)
        if reason is not None:
            logger.warning("loss_chunk_size has no effect: %s", reason)
        return reason is None

    def create_optimizer(self, model=None):
        if not self.args.muon or self.optimizer is not None:
            return super().create_optimizer(model)
        model = self.model if model is None else model
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        matrices, decayed = hidden_matrices(model), set(self.get_decay_parameter_names(model))
        args = self.args
        own = {
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
        self.optimizer = MuonAdamW(own, [group for group in groups if group["params"]], **adamw)
        return self.optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.args.decay_share is not None:
            steps = round(self.args.decay_share * num_training_steps)
            self.args.lr_scheduler_kwargs = {"num_decay_steps": steps, "decay_type": "linear"}
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # Without a cache the model reads the document boundaries from position_ids; with one it would not.
        inputs = {**inputs, "use_cache": False}
        # accelerate's own autocast turns all that a forward pass returns to 32 bit: the logits, which nobody reads.
        self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        with self.accelerator.autocast():
            if not (self.chunks_loss or self.router_coefficient or self.args.label_smoothing_factor):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            loss, outputs = self._loss(model, inputs, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _loss(self, model, inputs, num_items_in_batch):
        """What the model's own loss may lack: chunks, smoothing of the right targets, router losses by their share."""
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
            # The gradients of the processes are averaged; those of a tensor-parallel group have the same rows.
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        return loss, outputs

    def _smoothing(self, model) -> float:
        return self.args.label_smoothing_factor if model.training else 0.0

    def _whole_sum(self, model, inputs, targets):
        """Sum of the targets' losses, from all logits at once."""
        outputs = model(**inputs)
        logits, targets = outputs.logits.float().flatten(0, 1), targets.flatten().to(outputs.logits.device)
        options = {"ignore_index": IGNORED, "reduction": "sum", "label_smoothing": self._smoothing(model)}
        return torch.nn.functional.cross_entropy(logits, targets, **options), outputs

    def _chunked_sum(self, model, inputs, targets):
        """The same sum, chunk by chunk, and with the z-loss in training."""
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
        """Sums over all processes."""
        of_this = torch.tensor(values, dtype=torch.float64, device=self.args.device)
        return self.accelerator.reduce(of_this, "sum").tolist()

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Report the cross-entropy per target of all rows (EOS tokens included), and bits per byte of the own text.

        Trainer would average the batches' means, in which a short last batch weighs as much as a full one.
        """
        total, tokens = self._summed_loss(self.get_eval_dataloader(eval_dataset))
        metrics = {f"{metric_key_prefix}_loss": total / tokens}
        if self.eval_bytes and eval_dataset is None:
            if self.eval_text is not None:
                total, _ = self._summed_loss(self.get_test_dataloader(self.eval_text))
            metrics[f"{metric_key_prefix}_bits_per_byte"] = total / math.log(2) / self.eval_bytes
        self.log(dict(metrics))  # Trainer adds its own keys
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _summed_loss(self, dataloader) -> tuple[float, int]:
        """Sum of the losses over all targets of all processes, in nats, and the number of targets."""
        model = self.model.eval()
        total, tokens = 0.0, 0
        state, rows = self.accelerator.state, len(dataloader.dataset)
        for index, inputs in enumerate(dataloader):
            # Processes take batches in turn; those beyond the last row are filled up with rows from the front.
            first = (index * state.num_processes + state.process_index) * self.args.eval_batch_size
            for name in inputs.keys() & {"labels", "shift_labels"}:
                inputs[name] = inputs[name].index_fill(0, _beyond(inputs[name], rows - first), IGNORED)
            targets = inputs["shift_labels"] if "shift_labels" in inputs else inputs["labels"][:, 1:]
            counted = int((targets != IGNORED).sum())
            with torch.no_grad():
                loss = self.compute_loss(model, self._prepare_inputs(inputs)).item()
            total += loss * counted if counted else 0.0
            tokens += counted
        model.train()
        total, tokens = self._sums(total, tokens)
        return total, int(tokens)


def _beyond(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Places of the rows after the first `count`."""
    return torch.arange(max(0, min(count, len(rows))), len(rows), device=rows.device)

"""Causal language modelling on packed documents, on transformers' Trainer."""

import math
from dataclasses import dataclass, field

import torch
from transformers import Trainer, TrainingArguments


@dataclass
class PretrainConfig(TrainingArguments):
    """`TrainingArguments` with the defaults of pretraining (Brown et al. 2020: beta2 0.95, weight decay 0.1)."""

    learning_rate: float = field(default=6e-4, metadata={"help": "Peak learning rate."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Second-moment decay of AdamW."})
    weight_decay: float = field(default=0.1, metadata={"help": "Weight decay, on matrices only."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    include_num_input_tokens_seen: str | bool = field(default="all", metadata={"help": "Count the tokens trained on."})
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens in a packed row; default: the tokenizer's model_max_length."}
    )


class PretrainTrainer(Trainer):
    """Trains on rows {input_ids, position_ids, labels} whose position_ids restart at each document.

    Args:
        eval_bytes: UTF-8 bytes of the validation text; with it evaluations report bits per byte too.
    """

    def __init__(self, *args, eval_bytes: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_bytes = eval_bytes

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # Without a cache the model reads the document boundaries from position_ids; with one it would not.
        return super().compute_loss(model, {**inputs, "use_cache": False}, return_outputs, num_items_in_batch)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Token-weighted loss over all rows, and bits per byte.

        Trainer would average the batches' means, in which a short last batch weighs as much as a full one.
        """
        dataloader = self.get_eval_dataloader(eval_dataset)
        model = self.model.eval()
        total, tokens = 0.0, 0
        for inputs in dataloader:
            counted = int((inputs["labels"][:, 1:] != -100).sum())
            with torch.no_grad():
                total += self.compute_loss(model, self._prepare_inputs(inputs)).item() * counted
            tokens += counted
        model.train()
        metrics = {f"{metric_key_prefix}_loss": total / tokens}
        if self.eval_bytes:
            metrics[f"{metric_key_prefix}_bits_per_byte"] = total / math.log(2) / self.eval_bytes
        self.log(dict(metrics))  # Trainer adds its own keys
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

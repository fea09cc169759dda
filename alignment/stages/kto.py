"""The KTO stage: TRL's KTOTrainer on single replies labelled as wanted or not (Ethayarajh et al. 2024, 2402.01306)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import DatasetDict
from transformers import TrainerCallback
from trl import KTOConfig, KTOTrainer

from alignment.data.arguments import DataArguments
from alignment.errors import UserError, raise_all
from alignment.models.loading import load_tokenizer
from alignment.stages import CAUSAL_LM, STAGES
from alignment.stages.self_check.loss_checks import check_starts_at_reference
from alignment.stages.self_check.policy_checks import starts_from
from alignment.stages.shared.defaults import SpeedLevers
from alignment.stages.shared.inherited import require_inherited
from alignment.stages.shared.inputs import account_for_tokens, load_data, refusals_named, require_context
from alignment.stages.shared.lora import ModelArguments, check_adapter
from alignment.stages.shared.reference import trainer_with_reference
from alignment.stages.shared.result import StageResult
from alignment.stages.shared.stage_keys import StageKeys
from alignment.stages.shared.stage_run import StageRun
from alignment.tokenization.chat_format import require_template

PARENTS = {"model_name_or_path": CAUSAL_LM}
WITHOUT_KL = "apo_zero_unpaired"


@dataclass
class KTORecipe(StageKeys, SpeedLevers, KTOConfig):
    """TRL's `KTOConfig`."""

    def __post_init__(self):
        super().__post_init__()
        if self.loss_type not in ("kto", WITHOUT_KL):
            raise UserError("loss_type is not known", got=self.loss_type, expected=f"kto or {WITHOUT_KL}")
        raise_all([] if self.loss_type == WITHOUT_KL else [*self._without_neighbours()])

    @property
    def least_micro_batch(self) -> int:
        """Fewest rows of a micro-batch: recovery from a full memory goes no lower."""
        return 1 if self.loss_type == WITHOUT_KL else 2

    def _without_neighbours(self) -> Iterator[UserError]:
        """The KL is estimated from each prompt with the reply of the row before it in its batch."""
        if self.train_sampling_strategy != "sequential":
            yield UserError(
                "KTO estimates its KL from neighbours in a batch, which are fixed before training",
                got=f"train_sampling_strategy: {self.train_sampling_strategy}",
                expected="sequential (rows are shuffled once, by the seed)",
                fix=f"leave train_sampling_strategy out, or loss_type: {WITHOUT_KL}, which needs no KL",
            )
        if self.per_device_train_batch_size < self.least_micro_batch:
            yield UserError(
                "KTO estimates its KL from other replies in the batch",
                got=f"per_device_train_batch_size: {self.per_device_train_batch_size}",
                expected="2 or more; the estimate is better with 8 or more",
                fix=f"increase the batch (and shorten max_length), or set loss_type: {WITHOUT_KL}, which has no KL",
            )


CONFIGS = (KTORecipe, DataArguments, ModelArguments)


def check(args: KTORecipe, data: DataArguments, model_args: ModelArguments) -> None:
    check_adapter(model_args, "kto")
    require_template(model_args.model_name_or_path)
    require_context(model_args.model_name_or_path, args.max_length)


def run(
    args: KTORecipe, data: DataArguments, model_args: ModelArguments, callbacks: Sequence[TrainerCallback] = ()
) -> StageResult:
    parent = model_args.model_name_or_path
    stage = StageRun("kto", args, callbacks)
    trainer = make_trainer(args, data, model_args, stage.folder, *stage.callbacks)
    require_inherited(trainer.processing_class, parent, args)
    evaluated = ["eval_loss", "eval_kl", "eval_rewards/chosen", "eval_rewards/rejected", "eval_rewards/margins"]
    metrics = stage.train(trainer, [starts_from(parent), check_starts_at_reference], logged=["kl"], evaluated=evaluated)
    return stage.finish(trainer, {"model_name_or_path": parent}, data, metrics)


def make_trainer(
    args: KTORecipe, data: DataArguments, model_args: ModelArguments, stage_dir: Path, *callbacks: TrainerCallback
) -> KTOTrainer:
    """Return TRL's trainer with policy, reference, tokenizer and labelled replies, ready to train."""
    tokenizer = load_tokenizer(model_args.model_name_or_path)
    splits = load_data(data, STAGES["kto"].data, args.seed, stage_dir)
    splits = splits.select_columns(["prompt", "completion", "label"])
    given = DatasetDict(splits)
    # The trainer reads the rows in order: the two replies of a pair, or files by label, would be neighbours.
    splits["train"] = splits["train"].shuffle(seed=args.seed)
    with refusals_named("kto", given, tokenizer):
        trainer = trainer_with_reference(KTOTrainer, args, model_args, splits, tokenizer, stage_dir, callbacks)
    reason = f"have a prompt that fills max_length {args.max_length}"
    if args.loss_type != WITHOUT_KL:
        reason += ", or do not fill the last batch"  # of neighbours for the KL
    account_for_tokens(trainer, splits, "kto", reason, stage_dir)
    return trainer

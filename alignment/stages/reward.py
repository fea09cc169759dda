"""The reward stage: TRL's RewardTrainer on preference pairs, and a card of how well the model ranks held-out pairs."""

from dataclasses import dataclass, field

from trl import ModelConfig, RewardConfig, RewardTrainer

from alignment.data.arguments import DataArguments
from alignment.data.load import load_splits
from alignment.models.loading import load_tokenizer, load_trainable
from alignment.stages.adapters import new_adapter
from alignment.stages.common import StageResult, count_parameters, finish, last_logged, start
from alignment.stages.defaults import HardwareDefaults
from reward_models.pairwise import GOLD_COLUMNS, judge_pairs

PARENTS = {"model_name_or_path": "causal-lm"}
PAIR = ["prompt", "chosen", "rejected"]


@dataclass
class RewardArguments(DataArguments):
    """Which pairs the reward model learns from, and which it is judged on."""

    dataset_card_split: str | None = field(
        default=None, metadata={"help": "The split that the finished model is judged on; default: the validation rows."}
    )
    card_min_gap: float = field(
        default=0.1, metadata={"help": "Where gold rewards are known, pairs closer than this are not judged."}
    )


@dataclass
class RewardRecipe(HardwareDefaults, RewardConfig):
    """TRL's `RewardConfig`."""


CONFIGS = (RewardRecipe, RewardArguments, ModelConfig)


def run(args: RewardRecipe, data: RewardArguments, model_args: ModelConfig) -> StageResult:
    stage_dir, writer, clock = start(args)
    tokenizer = load_tokenizer(model_args.model_name_or_path)
    model = load_trainable(model_args.model_name_or_path, "sequence-classification")
    model.config.pad_token_id = tokenizer.pad_token_id
    splits = load_splits(data, "preference", args.seed, keep=GOLD_COLUMNS)
    judged = splits.get("validation")
    if data.dataset_card_split:
        judged = load_splits(
            DataArguments(
                data.dataset_name, data.dataset_config, data.dataset_card_split, columns=data.columns, eval_share=0
            ),
            "preference",
            args.seed,
            keep=GOLD_COLUMNS,
        )["train"]
    trainer = RewardTrainer(
        model=model,
        args=args,
        train_dataset=splits["train"].select_columns(PAIR),
        eval_dataset=splits["validation"].select_columns(PAIR) if "validation" in splits else None,
        processing_class=tokenizer,
        peft_config=new_adapter(model, model_args, tokenizer, "sequence-classification"),
        callbacks=[writer],
    )
    counted = count_parameters(trainer.model)
    trainer.train()
    metrics = last_logged(trainer, "train_loss", "num_tokens")
    tokens = metrics.pop("num_tokens", 0)
    if "validation" in splits:
        evaluated = trainer.evaluate()
        metrics |= {key: evaluated[key] for key in ("eval_loss", "eval_accuracy") if key in evaluated}
    if judged is not None:
        metrics["pairwise"] = judge_pairs(
            trainer.model, tokenizer, judged, data.card_min_gap, args.per_device_eval_batch_size
        )
    return finish(
        trainer,
        stage_dir,
        clock,
        method="reward",
        parents={"model_name_or_path": model_args.model_name_or_path},
        data=data.dataset_name,
        counted=counted,
        tokens=tokens,
        metrics=metrics,
    )

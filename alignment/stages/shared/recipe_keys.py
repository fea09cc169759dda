"""The recipe keys that checks and estimates read of a stage, whichever of its dataclasses holds them."""

from collections.abc import Sequence
from typing import Any

# A stage need not have each of these; a name that is not listed is a mistake in the code that asks for it.
RECIPE_KEYS = frozenset(
    {
        "activation_checkpointing",
        "assistant_only_loss",
        "attn_implementation",
        "batch_size",
        "beta",
        "bf16",
        "card_subset",
        "columns",
        "critic_mode",
        "dataloader_drop_last",
        "dataset_name",
        "dataset_test_split",
        "deepspeed",
        "dtype",
        "eval_share",
        "eval_strategy",
        "fp16",
        "fsdp",
        "generation_batch_size",
        "gradient_accumulation_steps",
        "label_column",
        "learning_rate",
        "load_best_model_at_end",
        "load_in_4bit",
        "load_in_8bit",
        "lora_dropout",
        "lora_modules_to_save",
        "lora_r",
        "lora_target_modules",
        "loss_chunk_size",
        "max_completion_length",
        "max_length",
        "max_steps",
        "model_name_or_path",
        "muon",
        "num_generations",
        "num_iterations",
        "num_train_epochs",
        "optim",
        "packing",
        "packing_strategy",
        "per_device_eval_batch_size",
        "per_device_train_batch_size",
        "replay_dataset_name",
        "replay_ratio",
        "reward_funcs",
        "reward_model_path",
        "rows_per_part",
        "start_tokens_as",
        "steps_per_generation",
        "train_sampling_strategy",
        "truncation_mode",
        "use_bnb_nested_quant",
        "use_dora",
        "use_peft",
        "versus_model_path",
        "warmup_steps",
        "world_size",
    }
)


def recipe_key(configs: Sequence[Any], name: str, default: Any = None) -> Any:
    """Return the value of a recipe key, or the default if the stage has no such key.

    Args:
        configs: the stage's dataclasses.

    Raises:
        AttributeError: `name` is not one of RECIPE_KEYS.
    """
    if name not in RECIPE_KEYS:
        raise AttributeError(f"no stage has the recipe key {name!r}; new keys are listed in {__name__}.RECIPE_KEYS")
    return next((getattr(config, name) for config in configs if hasattr(config, name)), default)

"""Writing a stage's finished checkpoint, and pushing it to the hub."""

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from huggingface_hub import HfApi
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from alignment.data.arguments import DataArguments
from alignment.errors import UserError, raise_all
from alignment.models.adapters import add_token_rows
from alignment.models.checkpoints import is_adapter
from alignment.models.loading import load_config
from alignment.stages import CAUSAL_LM, DATA, product_of


def stage_of(product: str) -> str:
    """Return the name of the stage that wrote a checkpoint or rows, or the path or hub id if no stage did."""
    path = Path(product)
    written = path.name in (product_of(CAUSAL_LM), product_of(DATA)) and (path.parent / "stage.json").exists()
    return path.parent.name if written else product


def rows_of_stages(data: DataArguments) -> dict[str, str]:
    """Return recipe key -> folder for the sources of a stage's rows that another stage wrote."""
    key = "dataset_name" if data.datasets is None else "datasets.{}.name"
    named = {key.format(number): source.name for number, source in enumerate(data.sources())}
    return {key: name for key, name in named.items() if stage_of(name) != name}


def require_supported_sharding(trainer: Trainer) -> None:
    """Refuse, before training, ways to shard the model that fail in training or leave no checkpoint after it."""
    errors, state = [], trainer.accelerator.state
    plugin = getattr(state, "fsdp_plugin", None)
    model = trainer.accelerator.unwrap_model(trainer.model)
    adapter = model.peft_config[model.active_adapter] if isinstance(model, PeftModel) else None
    # PEFT merges trained rows into the table outside the modules that FSDP gathers.
    if plugin is not None and getattr(adapter, "trainable_token_indices", None):
        errors.append(
            UserError(
                "FSDP cannot shard embeddings of which an adapter trains some rows.",
                got="an adapter that trains the rows of the chat template's tokens, and FSDP",
                fix="start several processes without FSDP: only the adapter is trained, and each holds the base",
            )
        )
    # Trainer looks for the best checkpoint's folder before the processes have made it, and waits for ever.
    if plugin is not None and trainer.args.load_best_model_at_end and "SHARDED" in str(plugin.state_dict_type):
        errors.append(
            UserError(
                "The best step checkpoint cannot be loaded at the end if step checkpoints are sharded.",
                got="load_best_model_at_end: true, with FSDP's SHARDED_STATE_DICT",
                fix="set fsdp_state_dict_type: FULL_STATE_DICT, or load_best_model_at_end: false",
            )
        )
    gathers = "stage3_gather_16bit_weights_on_model_save"
    if zero_three(trainer) and not state.deepspeed_plugin.deepspeed_config["zero_optimization"].get(gathers):
        errors.append(
            UserError(
                "DeepSpeed's ZeRO-3 would not gather the weights for the checkpoint.",
                got=f"{gathers}: false",
                fix=f"set {gathers}: true in DeepSpeed's config, or zero3_save_16bit_model: true in accelerate's",
            )
        )
    raise_all(errors)


def zero_three(trainer: Trainer) -> bool:
    """Whether DeepSpeed splits the weights themselves."""
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    return plugin is not None and plugin.zero_stage == 3


def gathered_weights(trainer: Trainer) -> dict[str, torch.Tensor] | None:
    """Gather the weights of a model that FSDP or ZeRO-3 has sharded; all processes must call this together.

    Returns:
        The weights as `save_pretrained` writes them, in the main process alone; None if each process has the model.
    """
    accelerator = trainer.accelerator
    if accelerator.distributed_type == DistributedType.FSDP:
        weights = accelerator.get_state_dict(trainer.model)
    elif zero_three(trainer):
        weights = accelerator.get_state_dict(trainer.model_wrapped)
    else:
        return None
    # Tied weights are two tensors after gathering, so that save_pretrained would not recognise them.
    tied = getattr(accelerator.unwrap_model(trainer.model), "all_tied_weights_keys", None) or {}
    return {name: weight for name, weight in weights.items() if name not in tied}


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    checkpoint: Path,
    initial: str | None = None,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Save weights (safetensors), config, tokenizer and generation config; for a PeftModel the adapter alone.

    Args:
        initial: the folder of the adapter's initial weights, if its initialisation changed the base (PiSSA); it is then
            saved as an adapter of the unchanged base.
        weights: the model's weights, if they were gathered from several processes.
    """
    # Only the trained adapter is saved: neither the reference adapter nor the adapters below.
    selected: dict[str, Any] = {} if weights is None else {"state_dict": weights}
    if isinstance(model, PeftModel):  # only the trained rows of the embeddings, even if the base has grown
        selected |= {"selected_adapters": [model.active_adapter], "save_embedding_layers": False}
        if initial is not None and Path(initial).is_dir():
            selected["path_initial_model_for_weight_conversion"] = initial
    model.save_pretrained(checkpoint, **selected)
    if "path_initial_model_for_weight_conversion" in selected:
        add_token_rows(model, checkpoint)
    tokenizer.save_pretrained(checkpoint)
    # PEFT does not save the generation config, which says where a reply ends.
    if is_adapter(checkpoint) and getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(checkpoint)


def as_parent(model: PreTrainedModel | PeftModel, parent: str | None) -> None:
    """Restore the parent's `output_router_logits`, which TRL's trainers set in the config of a mixture of experts.

    With it, transformers' own models cannot generate from a cache.
    """
    config = model.config.get_text_config()
    if parent is not None and hasattr(config, "output_router_logits"):
        config.output_router_logits = load_config(parent).get_text_config().output_router_logits


def push(trainer: Trainer, checkpoint: Path) -> None:
    """Upload a finished checkpoint. Trainer's own push would add its pickled arguments, with hub_token."""
    api, revision = HfApi(token=trainer.args.hub_token), trainer.args.hub_revision
    api.upload_folder(repo_id=trainer.hub_model_id, folder_path=checkpoint, revision=revision)

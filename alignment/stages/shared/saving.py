"""How a stage's finished checkpoint is written and pushed to the hub."""

from pathlib import Path

from huggingface_hub import HfApi
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from alignment.models.adapters import add_token_rows
from alignment.models.checkpoints import is_adapter
from alignment.models.loading import load_config


def stage_of(checkpoint: str | None) -> str | None:
    """The stage that a checkpoint path belongs to (its folder's name), else the path or hub id itself."""
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    return path.parent.name if path.name == "checkpoint" and (path.parent / "stage.json").exists() else checkpoint


def save_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, checkpoint: Path, initial: str | None = None
) -> None:
    """Weights (safetensors), config, tokenizer and generation config; of a PeftModel the adapter alone.

    Args:
        initial: of an adapter that changed its base as it began (PiSSA), the folder of it as it was then: it is saved
            as an adapter of the base as it was before.
    """
    # A reference adapter beside the trained one stays out, and so do those that it stands over.
    selected = {}
    if isinstance(model, PeftModel):  # of embeddings the trained rows alone, where the base was given some more as well
        selected = {"selected_adapters": [model.active_adapter], "save_embedding_layers": False}
        if initial is not None and Path(initial).is_dir():
            selected["path_initial_model_for_weight_conversion"] = initial
    model.save_pretrained(checkpoint, **selected)
    if "path_initial_model_for_weight_conversion" in selected:
        add_token_rows(model, checkpoint)
    tokenizer.save_pretrained(checkpoint)
    # PEFT leaves the generation config out, and with it where a reply ends.
    if is_adapter(checkpoint) and getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(checkpoint)


def as_parent(model: PreTrainedModel | PeftModel, parent: str | None) -> None:
    """Undo what TRL's trainers set in the config of a mixture of experts for training: transformers' own models with
    `output_router_logits` cannot generate from a cache."""
    config = model.config.get_text_config()
    if parent is not None and hasattr(config, "output_router_logits"):
        config.output_router_logits = load_config(parent).get_text_config().output_router_logits


def push(trainer: Trainer, checkpoint: Path) -> None:
    """Upload a finished checkpoint as it stands; Trainer's own push adds its pickled arguments, with hub_token."""
    api, revision = HfApi(token=trainer.args.hub_token), trainer.args.hub_revision
    api.upload_folder(repo_id=trainer.hub_model_id, folder_path=checkpoint, revision=revision)

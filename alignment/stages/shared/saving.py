"""Writing a stage's finished checkpoint, and pushing it to the hub."""

from pathlib import Path

from huggingface_hub import HfApi
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from alignment.models.adapters import add_token_rows
from alignment.models.checkpoints import is_adapter
from alignment.models.loading import load_config


def stage_of(checkpoint: str) -> str:
    """Return the name of the stage that wrote a checkpoint, or the path or hub id if no stage did."""
    path = Path(checkpoint)
    return path.parent.name if path.name == "checkpoint" and (path.parent / "stage.json").exists() else checkpoint


def save_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, checkpoint: Path, initial: str | None = None
) -> None:
    """Save weights (safetensors), config, tokenizer and generation config; for a PeftModel the adapter alone.

    Args:
        initial: the folder of the adapter's initial weights, if its initialisation changed the base (PiSSA); it is then
            saved as an adapter of the unchanged base.
    """
    # Only the trained adapter is saved: neither the reference adapter nor the adapters below.
    selected = {}
    if isinstance(model, PeftModel):  # only the trained rows of the embeddings, even if the base has grown
        selected = {"selected_adapters": [model.active_adapter], "save_embedding_layers": False}
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

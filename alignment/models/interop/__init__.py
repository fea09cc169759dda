"""Checkpoints to and from transformers' own architectures, and to folders that carry their code with them."""

from .convert import TARGETS, Conversion, export_checkpoint, import_checkpoint

__all__ = ["TARGETS", "Conversion", "export_checkpoint", "import_checkpoint"]

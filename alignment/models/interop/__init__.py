"""Conversion of checkpoints from and to transformers' own architectures, and to folders that include their code."""

from .convert import TARGETS, Conversion, export_checkpoint, import_checkpoint

__all__ = ["TARGETS", "Conversion", "export_checkpoint", "import_checkpoint"]

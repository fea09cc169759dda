"""Evaluate an adapter and its base from one load of the base's weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError
from eval.conditions.chat_template import ASK
from eval.harness.place import Place
from eval.harness.run_suite import evaluate_many, load_checkpoint, this_device

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)


def evaluate_with_base(
    checkpoint: str | Path, suites: list[str], formats: list[str], place: Place, base_place: Place, **options: Any
) -> list[dict]:
    """Run suites on an adapter and on its base from one loaded model, with the adapter disabled for the base.

    If disabling the adapter would not restore the base's weights, the base is loaded separately, after the adapter's
    model is freed. The base uses its own tokenizer and stop tokens. If it has no
    template, it skips the chat format with a warning, unless the option `chat_template` says in which template to ask.

    Args:
        checkpoint: folder or hub id of an adapter.
        suites, formats: as for `evaluate_many`.
        place, base_place: stages and folders of the adapter's and of the base's runs.
        options: further keyword arguments of `evaluate`.

    Returns:
        The records of the runs: the adapter's, then the base's.

    Raises:
        UserError: the checkpoint is not an adapter; a suite has none of the formats.
    """
    from alignment.models.adapters import token_rows_in_place
    from alignment.models.checkpoints import adapter_base, is_adapter, lasting_changes
    from alignment.models.loading import load_tokenizer, load_trainable
    from alignment.models.vocabulary import require_rows
    from eval.harness.suite import suite_formats

    if not is_adapter(checkpoint):
        raise UserError("Only an adapter has a base to be scored with.", got=checkpoint, expected="an adapter's folder")
    base, changes = adapter_base(checkpoint), lasting_changes(checkpoint)
    model = load_trainable(checkpoint, "causal-lm").to(this_device())
    tokenizer = load_tokenizer(checkpoint)
    require_rows(model, tokenizer, str(checkpoint))
    own = options | {"stage": place.stage, "parent": place.parent, "loaded": (model, tokenizer)}
    with token_rows_in_place(model):
        records = evaluate_many(checkpoint, suites, formats, place.folder, **own)
    tokenizer = load_tokenizer(base)
    if "chat" in formats and not (tokenizer.chat_template or options.get("chat_template")):
        logger.warning("%s, the base, has no chat template and is not asked in the chat format: %s", base, ASK)
        formats = [format for format in formats if format != "chat"]
    suites = [suite for suite in suites if set(formats) & set(suite_formats(suite))]
    if not suites:
        return records
    options |= {"stage": base_place.stage, "parent": base_place.parent}
    if changes is None:
        require_rows(model, tokenizer, base)
        with base_of(model, base):
            return records + evaluate_many(
                base, suites, formats, base_place.folder, loaded=(model, tokenizer), **options
            )
    logger.info("%s: the base is loaded separately, because %s", checkpoint, changes)
    del model, own
    return records + evaluate_many(base, suites, formats, base_place.folder, loaded=load_checkpoint(base), **options)


@contextmanager
def base_of(model: PeftModel, base: str) -> Iterator[PeftModel]:
    """Disable a model's adapter, and use the stop tokens of its base (a folder or hub id); both are restored."""
    from transformers import GenerationConfig

    inner = model.get_base_model()
    kept = inner.generation_config
    try:
        inner.generation_config = GenerationConfig.from_pretrained(base)
    except OSError:  # a base without generation_config.json: its config says what ends a text
        inner.generation_config = GenerationConfig.from_model_config(inner.config)
    try:
        with model.disable_adapter():
            yield model
    finally:
        inner.generation_config = kept

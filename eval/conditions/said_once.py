"""Warnings about a suite's rows, which are read for each format and checkpoint, said once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# Loggers.
READERS = ("eval.suite_rows.question_rows", "eval.suite_rows.held_out_rows", "eval.harness.packaged")


@contextmanager
def said_once() -> Iterator[None]:
    """Drop repetitions of a warning about rows inside."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in said
        said.add(text)
        return new

    loggers = [logging.getLogger(name) for name in READERS]
    for logger in loggers:
        logger.addFilter(is_new)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_new)

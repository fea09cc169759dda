"""Inputs that fail before the change of issue 18, as an exact list: each must fail, and the list goes with the change."""

import json
from pathlib import Path

import pytest

FAILING = set(json.loads(Path(__file__).with_name("failing.json").read_text()))


def pytest_collection_modifyitems(items):
    for item in items:
        if f"{item.path.name}::{item.name}" in FAILING:
            item.add_marker(pytest.mark.xfail(strict=True, reason="reported cases of issue 18"))

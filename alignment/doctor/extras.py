"""Optional packages: what each lets you do, and how to install it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from alignment.doctor.facts import NOTE, Fact
from alignment.doctor.requirements import PROJECT, installed_version


@dataclass(frozen=True)
class Extra:
    """An optional package.

    Attributes:
        package: its name.
        gives: what it lets you do.
        extra: this project's extra that installs it, if there is one.
        options: of pip, to install it by itself.
        on_gpu: whether it needs a GPU.
    """

    package: str
    gives: str
    extra: str | None = None
    options: str = ""
    on_gpu: bool = False

    @property
    def fix(self) -> str:
        """The command that installs it."""
        return f"pip install '{PROJECT}[{self.extra}]'" if self.extra else f"pip install {self.package}{self.options}"


EXTRAS = (
    Extra("bitsandbytes", "QLoRA: load_in_4bit, load_in_8bit, optim: paged_adamw_8bit", on_gpu=True),
    Extra("vllm", "GRPO with use_vllm: true", on_gpu=True),
    Extra("flash-attn", "attn_implementation: flash_attention_2", options=" --no-build-isolation", on_gpu=True),
    Extra("deepspeed", "training sharded by ZeRO", on_gpu=True),
    Extra("tensorboard", "report_to: tensorboard", extra="tensorboard"),
    Extra("wandb", "report_to: wandb"),
    Extra("trackio", "report_to: trackio"),
    Extra("fastapi", "align serve", extra="serve"),
    Extra("openai", "align winrate with a judge over an API", extra="judge"),
)


def extra_facts(on_gpu: bool) -> Iterator[Fact]:
    """Yield a fact per optional package; those that need a GPU have no fix without one."""
    for extra in EXTRAS:
        version = installed_version(extra.package)
        if version:
            yield Fact("extras", extra.package, version, effect=extra.gives)
        elif extra.on_gpu and not on_gpu:
            yield Fact("extras", extra.package, "not installed", NOTE, f"{extra.gives}; needs a GPU")
        else:
            yield Fact("extras", extra.package, "not installed", NOTE, extra.gives, extra.fix)

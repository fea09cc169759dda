"""The GPUs, or why there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alignment.doctor.facts import NOTE, Fact
from alignment.text import size_text

SECTION = "GPU"
PCI, DRIVER = Path("/sys/bus/pci/devices"), Path("/proc/driver/nvidia/version")
NVIDIA, DISPLAY = "0x10de", "0x03"  # a PCI device's vendor, and the class of display controllers
HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def gpu_facts(torch: Mapping[str, Any] | None) -> Iterator[Fact]:
    """Yield the GPUs that torch sees, or why it sees none.

    Args:
        torch: what torch says of itself (import_probe.py); None if it cannot be imported.
    """
    gpus = (torch or {}).get("gpus", [])
    for index, gpu in enumerate(gpus):
        free = "unknown what is" if gpu["free"] is None else size_text(gpu["free"])
        value = f"{gpu['name']}, {free} free of {size_text(gpu['memory'])}, compute capability {gpu['capability']}"
        if float(gpu["capability"]) < 8:
            cost = "no bf16 in hardware: it is emulated, slowly"
            yield Fact(SECTION, str(index), value, NOTE, cost, "--bf16 false --fp16 true")
        else:
            yield Fact(SECTION, str(index), value, effect="LoRA on one GPU; bf16 in hardware")
    if not gpus:
        yield why_none(torch)


def why_none(torch: Mapping[str, Any] | None) -> Fact:
    """Return why torch sees no GPU, as far as the machine shows it."""
    hidden = next((name for name in HIDING if os.environ.get(name, "x") in ("", "-1")), None)
    if torch is None:
        return Fact(SECTION, "GPU", "unknown", NOTE, "torch cannot be imported")
    if hidden:
        value = f"none: {hidden}={os.environ[hidden]!r} hides them"
        return Fact(SECTION, "GPU", value, NOTE, "stages train on the processor", f"unset {hidden}")
    if torch["cuda"] is None and not has_nvidia_card():
        value = f"none: torch {torch['version']} is built for CPUs, and no NVIDIA card was found"
        return Fact(SECTION, "GPU", value, NOTE, "tiny models train; LoRA on a real model takes hours")
    if torch["cuda"] is None:
        value = f"not used: there is an NVIDIA card, but torch {torch['version']} is built for CPUs"
        fix = "pip install --force-reinstall torch, without an index of CPU wheels"
        return Fact(SECTION, "GPU", value, NOTE, "stages train on the processor", fix)
    value = f"none: torch is built for CUDA {torch['cuda']}, and says: {torch['why_none']}"
    if not has_nvidia_card():
        return Fact(SECTION, "GPU", value, NOTE, "no NVIDIA card was found: tiny models train on the processor")
    fix = (
        "update the NVIDIA driver" if DRIVER.exists() else "install the NVIDIA driver until `nvidia-smi` lists the card"
    )
    return Fact(SECTION, "GPU", value, NOTE, "stages train on the processor", fix)


def has_nvidia_card() -> bool:
    """Whether an NVIDIA card is on the PCI bus, or its driver is loaded (containers may hide the bus)."""
    devices = PCI.iterdir() if PCI.is_dir() else []
    return DRIVER.exists() or any(
        _read(device / "vendor") == NVIDIA and _read(device / "class").startswith(DISPLAY) for device in devices
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""

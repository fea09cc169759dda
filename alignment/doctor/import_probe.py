"""Import packages in a process of its own, and describe the GPUs: `python -m alignment.doctor.import_probe PACKAGE...`.

A broken package may end its process (a library for another processor, say): the parent reads which it was.
"""

import importlib
import json
import sys
from typing import Any


def main(names: list[str]) -> None:
    """Import packages in order, and print a line of JSON after each."""
    for name in names:
        module = importlib.import_module(name)
        report: dict[str, object] = {"imported": name}
        if name == "torch":
            report["torch"] = torch_facts(module)
        print(json.dumps(report), flush=True)


def torch_facts(torch: Any) -> dict[str, object]:
    """Return what torch says of itself and of the GPUs."""
    facts: dict[str, object] = {
        "version": torch.__version__,
        "cuda": torch.version.cuda or torch.version.hip,
        "gpus": [],
        "why_none": None,
    }
    if torch.cuda.is_available():
        facts["gpus"] = [gpu_facts(torch, index) for index in range(torch.cuda.device_count())]
    elif facts["cuda"]:
        try:
            torch.cuda.init()
        except RuntimeError as error:  # torch's words for a missing or old driver
            facts["why_none"] = str(error).splitlines()[0]
    return facts


def gpu_facts(torch: Any, index: int) -> dict[str, object]:
    """Return name, memory and compute capability of a GPU."""
    properties = torch.cuda.get_device_properties(index)
    try:
        free = torch.cuda.mem_get_info(index)[0]
    except RuntimeError:  # full, or reserved for another process
        free = None
    return {
        "name": properties.name,
        "memory": properties.total_memory,
        "free": free,
        "capability": f"{properties.major}.{properties.minor}",
    }


if __name__ == "__main__":
    main(sys.argv[1:])

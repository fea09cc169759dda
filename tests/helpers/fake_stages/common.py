"""The settings and the work that all fake stages share."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from alignment.durable.manifest import new_checkpoint


@dataclass
class Common:
    output_dir: str = ""
    seed: int = 42
    learning_rate: float = 1e-3
    dataset_name: str | None = None
    datasets: list[dict] | None = None
    replay_dataset_name: str | None = None
    fail: str | None = None
    options: dict[str, int] | None = None
    hub_token: str | None = None

    def __post_init__(self):
        if self.learning_rate < 0:
            raise ValueError("learning_rate must not be negative")


def begin(settings) -> Path:
    """Note that a stage ran, by the name of its folder, and fail if its recipe says so."""
    output_dir = Path(settings.output_dir)
    (output_dir / "trainer").mkdir(parents=True, exist_ok=True)
    with (output_dir.parent / "ran.txt").open("a") as file:
        file.write(f"{output_dir.name}\n")
    if settings.fail == "interrupt":
        raise KeyboardInterrupt
    if settings.fail:
        raise RuntimeError(settings.fail)
    return output_dir


def work(name: str, kind: str, settings: Common, parents: list[str]) -> None:
    output_dir = begin(settings)
    made_from = asdict(settings) | {"output_dir": None, "hub_token": None}
    made_from["parents"] = [json.loads((Path(parent) / "weights.json").read_text()) for parent in parents]
    with new_checkpoint(output_dir / "checkpoint") as checkpoint:
        (checkpoint / "weights.json").write_text(json.dumps(made_from))
        if kind == "tokenizer":
            (checkpoint / "tokenizer.json").write_text("{}")
        else:
            (checkpoint / "config.json").write_text(json.dumps({"architectures": [f"Fake{kind}"]}))
    (output_dir / "stage.json").write_text(json.dumps({"stage": name, "seconds": 0.0}))

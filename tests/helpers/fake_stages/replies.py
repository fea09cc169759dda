import json
from dataclasses import dataclass
from pathlib import Path

from alignment.durable.manifest import new_checkpoint
from fake_stages.common import begin


@dataclass
class ReplyOptions:
    model_name_or_path: str
    output_dir: str = ""
    seed: int = 42
    dataset_name: str | None = None
    text: str = "Hello."
    fail: str | None = None


CONFIGS = (ReplyOptions,)
PARENTS = {"model_name_or_path": "causal-lm"}


def run(options):
    """Write two rows, which name the weights that they are of."""
    output_dir = begin(options)
    weights = (Path(options.model_name_or_path) / "weights.json").read_text()
    said = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": options.text}]
    rows = [json.dumps({"messages": said, "weights": weights})] * 2
    with new_checkpoint(output_dir / "data") as folder:
        (folder / "train-00000.jsonl").write_text("\n".join(rows) + "\n")
    (output_dir / "stage.json").write_text(json.dumps({"stage": output_dir.name, "seconds": 0.0}))

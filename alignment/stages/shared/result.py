"""The record of a finished stage: stage.json."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from alignment.durable.atomic import write_json
from alignment.redaction import redacted


@dataclass
class StageResult:
    """The record of a finished stage.

    `parent` is the name of the stage (or the path) that the model starts from; `parents` holds every recipe key that
    names a checkpoint, or rows that a stage wrote. `tokens` counts the tokens trained on, without padding; `faults`
    counts skipped steps and loss spikes. `adapter_chain` is the record in an adapter's checkpoint of its base and of
    the adapters in between.
    """

    stage: str
    method: str
    checkpoint: str
    parent: str | None
    parents: dict[str, str]
    seconds: float
    peak_memory_gb: float
    trainable_parameters: int
    total_parameters: int
    tokens: int
    metrics: dict = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    adapter_chain: dict | None = None
    self_check: dict | None = None
    probe: dict | None = None

    def write(self, stage_dir: Path) -> None:
        write_json(stage_dir / "stage.json", redacted(asdict(self)))

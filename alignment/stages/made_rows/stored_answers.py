"""The answers of endpoints that a run directory keeps, so that no stage asks the same question twice."""

import uuid
from pathlib import Path

from alignment.durable.atomic import write_text
from alignment.stages import PARTS
from reward_models.judges.answer_store import AnswerStore

ANSWERS = "answers"


def answers_of_run(stage_dir: Path) -> AnswerStore:
    """The store of a stage's answers, RUN_DIR/answers/STAGE.jsonl, which outlasts the stage's folder.

    A run of the stage has a name, the same after a resume: what it asked counts as its requests.
    """
    name = stage_dir / PARTS / "run"
    if not name.exists():
        write_text(name, uuid.uuid4().hex)
    return AnswerStore(stage_dir.parent / ANSWERS / f"{stage_dir.name}.jsonl", name.read_text(encoding="utf-8"))

"""The answers of endpoints that a run directory keeps, so that no stage asks the same question twice."""

import uuid
from pathlib import Path

from alignment.durable.atomic import write_text
from alignment.stages import PARTS
from reward_models.judges.answer_store import AnswerStore

ANSWERS = "answers"
SHOWN = 100  # characters of an unreadable answer, from its end


def answers_of_run(stage_dir: Path) -> AnswerStore:
    """The store of a stage's answers, RUN_DIR/answers/STAGE.jsonl, which outlasts the stage's folder.

    A run of the stage has a name, the same after a resume: what it asked counts as its requests.
    """
    name = stage_dir / PARTS / "run"
    if not name.exists():
        write_text(name, uuid.uuid4().hex)
    return AnswerStore(stage_dir.parent / ANSWERS / f"{stage_dir.name}.jsonl", name.read_text(encoding="utf-8"))


def look_at_answers(store: AnswerStore) -> list[str]:
    """Where to look if no answer made a row, a clause each; nothing if the store has no answers."""
    if not len(store):
        return []
    unread = store.unread()
    example = f"; one that cannot be read ends with {unread[-SHOWN:]!r}" if unread else ""
    return [
        f"{store.path} has the answers{example}; they are used again by the next run: delete that file to ask again, "
        "such as after another model has taken the same name"
    ]

"""What ships is worded as the field words it: a list of words that have a better form (CONTRIBUTING.md, Language)."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = ("align.py", "alignment/**/*", "eval/**/*", "reward_models/**/*", "recipes/**/*.yaml", "recipes/**/*.md")
PLACES = (*CODE, "docs/**/*.md", "README.md", "CONTRIBUTING.md")
LIBRARIES = ("docs/reference/keys-", "docs/reference/training-arguments.md")  # the texts are TRL's and transformers'
SUFFIXES = {".py", ".yaml", ".md", ".html", ".jinja"}
BETTER = {
    r"(goes|going|go|went|gone) on": "resume, continue, be trained further",
    r"foretells?|foretold": "predict",
    r"told|tells?": "report, say, show; for names: what the value is",
    r"(stands?|stood|standing)(?!-in| for)": "is, remaining, existing",
    r"mend(s|ed|ing)?": "fix, correct",
    r"beside": "next to, in addition to, besides, with",
    r"in place of": "instead of",
    r"(is|are) (theirs|ours)": "name the owner",
    r"of it all": "name the thing",
}
PATTERNS = {re.compile(rf"\b({words})\b", re.IGNORECASE): better for words, better in BETTER.items()}
# Lines that need the word: file -> a part of each such line.
EXCEPTIONS = {
    "alignment/tokenization/chat_template.jinja": ("generation block",),  # its text is part of checkpoints' digests
    "eval/harness/phrases.py": ("answer|determine", "impossible to"),  # phrases that models write
}
WORLD = "alignment/data/tinyworld/"  # its texts are stories


def shipped() -> list[Path]:
    found = {path for pattern in PLACES for path in ROOT.glob(pattern)}
    files = sorted(path for path in found if path.suffix in SUFFIXES and path.is_file())
    return [path for path in files if not path.relative_to(ROOT).as_posix().startswith((WORLD, *LIBRARIES))]


def test_words_that_have_a_better_form_do_not_come_back():
    found = []
    for path in shipped():
        name = path.relative_to(ROOT).as_posix()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if any(part in line for part in EXCEPTIONS.get(name, ())):
                continue
            found += [
                f"{name}:{number}: {better}: {line.strip()}" for one, better in PATTERNS.items() if one.search(line)
            ]
    assert not found, "\n".join(found)


def test_every_exception_is_still_needed():
    for name, parts in EXCEPTIONS.items():
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        for part in parts:
            assert any(part in line and any(one.search(line) for one in PATTERNS) for line in lines), (name, part)

"""Redaction of secrets in everything that is written or printed: records, cards, reports, messages and logs."""

import logging
import re
from typing import Any

MASK = "***"
# Keys whose values are secrets: hub_token and api_key are, eos_token, max_tokens and api_key_env are not.
SECRET_KEY = re.compile(
    r"(^|[._-])((hub|auth|access|api|bearer|refresh|hf|wandb)_?token|api_?key|access_?key|secret(_?key)?|password|passwd"
    r"|credentials?)$|^(.*\.)?token$",
    re.IGNORECASE,
)
# user:password@ in a URL, secrets in its query, and tokens with known prefixes (Hugging Face, OpenAI, GitHub).
IN_TEXT = [
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://?)[^/\s@\"'<>]+@", re.IGNORECASE), rf"\1{MASK}@"),
    (
        re.compile(
            r"([?&](?:[a-z_-]*token|api_?key|secret|password|signature|x-amz-[a-z-]+)=)[^&\s\"'<>]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"\b(hf_|sk-|gh[pousr]_|github_pat_)[A-Za-z0-9_-]{16,}"), rf"\1{MASK}"),
]


def redact_text(text: str) -> str:
    """Mask the secrets in a text that have a recognisable form."""
    for pattern, replacement in IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def redacted(value: Any, key: str = "") -> Any:
    """Mask the secrets in a recipe or another JSON-like value; `key` is the name of the value."""
    if isinstance(value, dict):
        return {
            redact_text(name) if isinstance(name, str) else name: redacted(item, str(name))
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted(item, key) for item in value]
    if value is not None and not isinstance(value, bool) and SECRET_KEY.search(key):
        return MASK
    return redact_text(value) if isinstance(value, str) else value


class RedactingFilter(logging.Filter):
    """A log filter that masks secrets in messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the message of a record, and keep the record."""
        record.msg, record.args = redact_text(record.getMessage()), None
        return True

"""The boundary around code of users: what it raises becomes a user error that names the code and the line."""

import asyncio
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from alignment.errors import UserError

LONGEST = 300  # characters of an exception's message


@contextmanager
def user_code(problem: str, file: str | None = None, fix: str = "correct it") -> Iterator[None]:
    """Raise a UserError for every exception of the code inside, also for sys.exit, with the original as its cause.

    User errors, full memory of a device (which training may recover from), KeyboardInterrupt and the cancellation of an
    async function are passed on. Whether torch records gradients is afterwards as before: code that turns them off,
    such as an import of another project, would end the training.

    Args:
        problem: the first line of the error.
        file: the user's file, to name the line in it rather than a line of a library that it calls.
    """
    records = _records_gradients()
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if _is_full_memory(error) or _is_cancelled(error):
            raise
        raise UserError(problem, got=f"{described(error)}{_place(error, file)}", fix=fix) from error
    finally:
        if _records_gradients() != records:
            sys.modules["torch"].set_grad_enabled(records)


def described(error: BaseException) -> str:
    """An exception in one line: its type and message."""
    message = " ".join(_message(error).split())
    short = message if len(message) <= LONGEST else message[:LONGEST] + "..."
    return f"{type(error).__name__}: {short}" if short else type(error).__name__


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # it is the user's code, too
        return ""


def _records_gradients() -> bool:
    """Whether torch records gradients, which is its default."""
    torch = sys.modules.get("torch")
    return torch is None or not hasattr(torch, "is_grad_enabled") or torch.is_grad_enabled()


def _is_cancelled(error: BaseException) -> bool:
    """Whether an event loop ends an async function, which must let it."""
    if not isinstance(error, asyncio.CancelledError):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs: the function raised it
        return False
    return task is not None and task.cancelling() > 0


def _place(error: BaseException, file: str | None) -> str:
    """Where an exception was raised, ` (file.py:3)`: the last line in the user's file, otherwise the last line."""
    if isinstance(error, SyntaxError):
        return ""  # its message has file and line
    frames = traceback.extract_tb(error.__traceback__)[1:]  # without `user_code`'s caller
    own = [frame for frame in frames if frame.filename == file] or frames
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def _is_full_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in _message(error)

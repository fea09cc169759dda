"""The boundary around code of users: what it raises becomes a user error that names the code and the line."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from alignment.errors import UserError

LONGEST = 300  # characters of an exception's message


@contextmanager
def user_code(problem: str, file: str | None = None, fix: str = "correct it") -> Iterator[None]:
    """Raise a UserError for every exception of the code inside, also for sys.exit, with the original as its cause.

    User errors, full memory (which training may recover from) and KeyboardInterrupt are passed on.

    Args:
        problem: the first line of the error.
        file: the user's file, to name the line in it rather than a line of a library that it calls.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if _is_full_memory(error):
            raise
        raise UserError(problem, got=f"{described(error)}{_place(error, file)}", fix=fix) from error


def described(error: BaseException) -> str:
    """An exception in one line: its type and message."""
    message = " ".join(str(error).split())
    short = message if len(message) <= LONGEST else message[:LONGEST] + "..."
    return f"{type(error).__name__}: {short}" if short else type(error).__name__


def _place(error: BaseException, file: str | None) -> str:
    """Where an exception was raised, ` (file.py:3)`: the last line in the user's file, otherwise the last line."""
    if isinstance(error, SyntaxError):
        return ""  # its message has file and line
    frames = traceback.extract_tb(error.__traceback__)[1:]  # without `user_code`'s caller
    own = [frame for frame in frames if frame.filename == file] or frames
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def _is_full_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)

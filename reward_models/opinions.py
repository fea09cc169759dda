"""Whether any reward judges any completion of a training: without a reward nothing is learned."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alignment.errors import UserError

PROMPTS = 256  # without any judged completion: if a tenth of the rows had an answer, this would not happen


class Opinions:
    """Counts a training's prompts until a completion has a reward.

    Args:
        names: the rewards' names.
    """

    def __init__(self, names: Sequence[str]):
        self.names, self.prompts, self.judged = list(names), 0, False

    def see(self, prompts: int, judged: int) -> None:
        """Add a rollout.

        Args:
            prompts: number of prompts of all processes.
            judged: number of their completions that have a reward.

        Raises:
            UserError: no completion of many prompts has a reward.
        """
        self.judged = self.judged or judged > 0
        self.prompts += prompts
        if not self.judged and self.prompts >= PROMPTS:
            raise self._error(f"no reward for any completion of the first {self.prompts} prompts")

    def require_any(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Raise a UserError at the end of a training in which no completion had a reward.

        Args:
            history: what the training logged, also before it was interrupted.
        """
        logged = [one.get("reward") for one in history if "loss" in one]
        earlier = any(value is not None and math.isfinite(value) for value in logged)
        if not (self.judged or earlier) and (self.prompts or logged):
            raise self._error("no reward for any completion of this training")

    def _error(self, got: str) -> UserError:
        return UserError(
            f"no reward judges any completion: {', '.join(self.names)}",
            got=f"{got}: the rewards returned None for each",
            expected="a number for some completions; nothing is learned from the others",
            fix="check that the data has the columns that the rewards read, with values",
        )

"""Settings and outcomes of the fuzz tests: a call with odd input succeeds, or refuses it with a UserError."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from alignment.errors import UserError, UserErrors

# A fixed sequence of examples: a failure here is reproduced by running the test again.
SHARED = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.explicit, Phase.generate, Phase.shrink],
}
LONGEST_PROBLEM = 2000  # characters: a message that prints a whole file is no help


def fuzz(examples: int) -> settings:
    """The settings of a fuzz test."""
    return settings(max_examples=examples, **SHARED)


def outcome(call: Callable[[], Any]) -> Any:
    """The result of the call, or None if it refused its input; any other exception is a failure of the test."""
    try:
        return call()
    except UserError as refusal:
        errors = refusal.errors if isinstance(refusal, UserErrors) else [refusal]
        for error in errors:
            assert error.problem.strip(), "a refusal names the problem"
            assert len(error.problem) < LONGEST_PROBLEM, f"a refusal of {len(error.problem)} characters"
        return None


# Values that stand in files and recipes in place of the right ones.
TEXTS = st.one_of(
    st.sampled_from(
        [
            *("", " ", "\n", "0", "-1", "nan", "null", "true", "[]", "{}", "##"),
            *("${x}", "{{x}}", "a" * 300, "é", "日本語", "\u2028"),
        ]
    ),
    st.text(max_size=12),
)
NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 0.5, -0.0, 1e-30, 1e30, 10**6, 2**31, 2**63, 10**25])
NOT_NUMBERS = st.sampled_from([float("nan"), float("inf"), float("-inf")])
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, NOT_NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)

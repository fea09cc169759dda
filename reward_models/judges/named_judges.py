"""Judges by their names on the command line and in recipes."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.durable.manifest import digest_checkpoint
from alignment.errors import UserError, gathered, raise_all
from alignment.name_options import is_function
from alignment.redaction import redact_text
from reward_models import functions
from reward_models.calls import checked, distinct, parameters_of
from reward_models.user_code import user_code

if TYPE_CHECKING:
    from reward_models.judges.asked import AskedJudge, Templates
    from reward_models.protocol import Comparer, Reward

LOCAL, API = "reward_models.judges.local:local", "reward_models.judges.api:api"


def load_reward(name: str, batch_size: int, device: str | None = None, dtype: str = "auto") -> Reward:
    """The reward of a function's name or a reward model's checkpoint.

    Args:
        batch_size, device, dtype: for a checkpoint, as for `reward_models.learned.reward`.

    Raises:
        UserError: the function or reward model does not exist, or the function is no reward function.
    """
    from reward_models import learned

    found: Any = functions.load_reward(name) if is_function(name) else learned.reward(name, batch_size, device, dtype)
    return found


def load_judge(name: str, batch_size: int) -> Reward | Comparer:
    """The judge of a name: a comparer if it has `compare` (a class is called first), otherwise a reward."""
    if not is_function(name):
        return load_reward(name, batch_size)
    found: Any = functions.load_function(name)
    if not hasattr(found, "compare"):
        _require_no_comparison(found, name)
        found = checked(found)
        return found
    if inspect.isclass(found):
        with user_code(f"{name} cannot make its judge.", fix="correct its __init__, or give it options after a ?"):
            found = found()
    comparer: Comparer = found
    return comparer


def check_judge(name: str, pairs: bool = True, ask: bool = True) -> None:
    """Raise a UserError for a judge that cannot judge, without loading a model.

    An endpoint is asked one short question; of a local judge the tokenizer is read. A reward or a class of one's own is
    imported, and its options are read.

    Args:
        pairs: whether the judge is to compare pairs; otherwise it is to rate replies.
        ask: whether an endpoint is asked.
    """
    if not is_function(name):
        from alignment.models.loading import require_reward_model

        require_reward_model(
            name,
            "give the checkpoint of a reward stage; a language model judges as `judge_model_path` of a judge stage, or "
            f"as reward_models.local_judge:local?checkpoint={name}",
        )
        return
    function, options = functions.with_options(name)
    address = _address(function)
    if options is not None and address == LOCAL:
        from reward_models.judges.local import check_local

        check_local(pairs=pairs, **options)
    elif options is not None and address == API:
        judge: Any = functions.load_function(name)
        if ask:
            judge.require_ready()
    elif options is None and not hasattr(function, "compare"):
        _require_no_comparison(function, name)
        checked(function)
    elif options is None and not pairs:
        raise UserError(
            f"the judge {name} compares two replies and gives no ratings",
            expected="a reward of single replies, or a language model as judge",
        )


def _require_no_comparison(function: Any, name: str) -> None:
    """Raise a UserError for a function with the parameters of `compare`: it would be taken for a reward."""
    parameters = [key for key in parameters_of(function) or {} if key != "self"]
    if {"a", "b"} <= {*parameters} and "completions" not in parameters:
        own = ", ".join(("self", *parameters))
        raise UserError(
            f"{name} is a function: a judge of pairs is a class with `compare`",
            got=f"{function.__name__}({', '.join(parameters)})",
            expected=f"class Judge:  def compare({own})",
            fix="put the function into a class, as its method compare, and name the class: FILE.py:Judge",
        )


def load_panel(
    names: Sequence[str], batch_size: int = 8, templates: Templates | None = None, run: str = ""
) -> list[AskedJudge]:
    """Judges to ask with `panel.judge_pairs` or `panel.judge_ratings`, each named differently.

    Args:
        names: as on the command line.
        batch_size: for reward models' checkpoints; a local judge has its own as an option.
        templates: questions of one's own for judges that are language models.
        run: names the run, see `own_identity`.

    Raises:
        UserErrors: for all judges that do not exist or cannot be made.
    """
    from reward_models.judges.asked import Templates

    errors: list[UserError] = []
    found: list[Any] = []
    for name in names:
        with gathered(errors):
            found.append(load_judge(name, batch_size))
    raise_all(errors)
    short = distinct([getattr(judge, "__name__", type(judge).__name__) for judge in found])
    pairs = zip(found, names, short, strict=True)
    return [asked_judge(judge, name, label, templates or Templates(), run) for judge, name, label in pairs]


def asked_judge(judge: Any, name: str, label: str, templates: Templates, run: str = "") -> AskedJudge:
    """A loaded judge as `panel.py` asks it.

    Args:
        name: its name on the command line.
        label: its name in results.
        run: names the run, see `own_identity`.
    """
    from reward_models.judges.api import ApiJudge
    from reward_models.judges.asked import AskedComparer, AskedEndpoint, AskedModel, AskedReward

    if isinstance(judge, ApiJudge):
        return AskedEndpoint(judge, label, templates)
    from reward_models.judges.local import LocalJudge  # imports torch, which an endpoint does not need

    if isinstance(judge, LocalJudge):
        return AskedModel(judge, label, templates)
    kind = AskedComparer if hasattr(judge, "compare") else AskedReward
    return kind(judge, label, own_identity(name, run))


def own_identity(name: str, run: str) -> Mapping[str, str]:
    """What identifies the answers of a reward model, or of a judge or reward of one's own.

    Code may import anything, so that no digest shows whether its answers are still the same: they are used by the run
    alone that asked, which may be resumed.
    """
    if not is_function(name):
        return {"checkpoint": digest_checkpoint(name) if Path(name).is_dir() else name}
    return {"name": hashlib.sha256(redact_text(name).encode()).hexdigest(), "run": run}


def is_endpoint(name: str) -> bool:
    """Whether a judge's name is that of an endpoint.

    Raises:
        UserError: a function or option does not exist.
    """
    if not is_function(name):
        return False
    function, options = functions.with_options(name)
    return options is not None and _address(function) == API


def _address(function: Any) -> str:
    return ":".join(getattr(function, part, "") for part in ("__module__", "__name__"))

"""The parents of a stage: stage names, paths and hub ids, and whether they are of the kind that the stage needs."""

from pathlib import Path

from alignment.durable.manifest import digest_checkpoint
from alignment.durable.read import read_json
from alignment.errors import UserError, did_you_mean
from alignment.models.checkpoints import is_path, require_sound
from alignment.models.examined.folder_contents import advice, listed, misspelt
from alignment.stages import CAUSAL_LM, CLASSIFIER, DATA, TOKENIZER

# Kind needed -> kinds that serve: every checkpoint includes its tokenizer.
SERVES = {
    TOKENIZER: (TOKENIZER, CAUSAL_LM, CLASSIFIER),
    CAUSAL_LM: (CAUSAL_LM,),
    CLASSIFIER: (CLASSIFIER,),
    DATA: (DATA,),
}
ARCHITECTURES = {
    "ForCausalLM": CAUSAL_LM,
    "LMHeadModel": CAUSAL_LM,
    "ForConditionalGeneration": CAUSAL_LM,
    "ForSequenceClassification": CLASSIFIER,
}
ADAPTERS = {"CAUSAL_LM": CAUSAL_LM, "SEQ_CLS": CLASSIFIER}


def kind_of_checkpoint(folder: Path) -> str | None:
    """The kind of a local checkpoint, from its config; None if the config does not show it."""
    adapter, config = folder / "adapter_config.json", folder / "config.json"
    if adapter.exists():
        return ADAPTERS.get(str(read_json(adapter).get("task_type")))
    if config.exists():
        names = read_json(config).get("architectures") or []
        for name in [names] if isinstance(names, str) else names if isinstance(names, list) else []:
            for ending, kind in ARCHITECTURES.items():
                if str(name).endswith(ending):
                    return kind
        return None
    return TOKENIZER if (folder / "tokenizer_config.json").exists() or (folder / "tokenizer.json").exists() else None


def check_kind(subject: str, value: str, kind: str | None, expected: str, key: str = "") -> None:
    """Raise if a checkpoint of a known kind cannot serve as a parent, or a stage without rows as data.

    Args:
        subject: the recipe's key, for messages.
        value: the checkpoint or stage, as the recipe names it.
        expected: the kind that the key needs.
        key: of a recipe; `judges.0` in a list.
    """
    if kind is None or kind in SERVES[expected]:
        return
    if expected == DATA:
        raise UserError(
            f"{subject} names a stage that writes no rows",
            got=f"{value} ({kind})",
            expected="a stage that writes rows, a file or folder, or a data set",
            fix=f"for a file or folder of this name: ./{value}",
        )
    if kind == DATA:
        raise UserError(
            f"{subject} names a stage that writes rows, not a model",
            got=value,
            expected=expected,
            fix=f"name a stage that trains a model; the rows of {value} are named by dataset_name",
        )
    instead = f", or judge_model_path: {value}" if kind == CAUSAL_LM and key.startswith("judges.") else ""
    raise UserError(
        f"{subject} names a checkpoint of the wrong kind",
        got=f"{value} ({kind})",
        expected=expected,
        fix=f"name a {expected} checkpoint{instead}",
    )


def check_outside(subject: str, value: str, expected: str, stage_names: list[str], key: str = "") -> None:
    """Check a parent outside the run directory; the arguments are as for `check_kind`.

    Raises:
        UserError: a path without a checkpoint of the right kind, or a misspelt stage name.
    """
    if not is_path(value):
        meant = did_you_mean(value, stage_names, cutoff=0.75)
        if meant and value not in stage_names:
            raise UserError(f"{subject}: no such stage", got=value, fix=meant)
        return
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"{subject}: no such checkpoint",
            got=f"{value} ({'a file' if folder.is_file() else 'no such folder'})",
            expected="a checkpoint folder, a stage name or a hub id",
            fix=advice(folder) if folder.is_file() else misspelt(value) or "check the path",
        )
    kind = kind_of_checkpoint(folder)
    if kind is None and not any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
        raise UserError(
            f"{subject} names a folder without a checkpoint",
            got=f"{value}: {listed(folder)}",
            expected="a folder with config.json, adapter_config.json or tokenizer.json",
            fix=advice(folder),
        )
    check_kind(subject, value, kind, expected, key)


def digest_outside(value: str) -> str:
    """The digest of a parent outside the run directory: of its files, or its hub id."""
    folder = Path(value).expanduser()
    require_sound(folder, weights=False)
    return digest_checkpoint(folder) if folder.is_dir() else f"hub:{value}"

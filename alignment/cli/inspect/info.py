"""`align info`: size and cost of a preset or checkpoint, its lineage or that of rows, and whether files are intact.

Of a model of another architecture it shows what the files say: the cost is computed for this project's own only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from alignment.models.examined.overview import Overview
    from alignment.models.gpt.sizes import Sizes


ACCOUNT = "account.json"  # in a folder of rows that a data stage wrote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="?", help="a checkpoint folder, STAGE/data, a run directory, or a hub id")
    parser.add_argument("--preset", help="a named model; an unknown name lists the presets")
    parser.add_argument("--context", type=int, help="sequence length (default: the model's maximum)")
    parser.add_argument("--verify", action="store_true", help="compare all files with the manifest; exit code 0 or 2")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def main(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from alignment.pipeline.records.record import FILE

    if args.verify:
        return _verify(args)
    if args.checkpoint and (Path(args.checkpoint) / FILE).is_file():
        return _print_run(Path(args.checkpoint))
    if args.checkpoint and (Path(args.checkpoint) / ACCOUNT).is_file():
        return _print_rows(args.checkpoint, args.json)
    from alignment.models.examined.overview import Overview
    from alignment.models.gpt import GPTConfig
    from alignment.models.gpt.sizes import sizes  # of a config class that transformers' import comes with

    lineage, chain = _lineage(args), _chain(args.checkpoint) if args.checkpoint else None
    config = _config(args, (lineage or chain) is not None)
    if args.context is not None and args.context < 1:
        raise UserError("--context is too small", got=args.context, expected="at least 1")
    name = args.preset or args.checkpoint
    found: Sizes | Overview | None = None
    if isinstance(config, GPTConfig):
        found = sizes(config, args.context)
    elif config is not None:
        found = _overview(args, config)
    if args.json:
        print(
            json.dumps({"name": name, **(asdict(found) if found else {}), "lineage": lineage, "adapter_chain": chain})
        )
        return 0
    if isinstance(found, Overview):
        _print_overview(name, found)
    elif found:
        _print_sizes(name, found)
    if chain:
        print("\n".join(["adapters, from the base up", *chain_lines(chain)]))
    if lineage:
        _print_lineage(lineage)
    return 0


def _print_sizes(name: str, found: Sizes) -> None:
    from alignment.text import size_text, with_unit

    parameters = f"{found.parameters:,}"
    if found.active_parameters != found.parameters:
        parameters += f", {found.active_parameters:,} of them active per token"
    flops = f"{with_unit(found.forward_flops_per_token, 'FLOP')} (training: three times this)"
    cache = f"{size_text(found.kv_cache_bytes_per_token)} in 16 bit; {size_text(found.kv_cache_bytes)} per sequence"
    memory = f"{size_text(found.training_bytes)} for weights, gradients and AdamW in 32 bit, without activations"
    print(f"{name}, at a context of {found.context:,}")
    print(f"  {'parameters':26}{parameters}")
    print(f"  {'FLOPs per token, forward':26}{flops}")
    print(f"  {'KV cache per token':26}{cache}")
    print(f"  {'memory to train':26}{memory}")


def _overview(args: argparse.Namespace, config: PreTrainedConfig) -> Overview:
    from alignment.models.examined.overview import overview

    if args.context is not None:
        raise UserError(
            "--context applies to models of this project's architecture, whose cost is computed",
            got=f"model_type {config.model_type}",
            fix="leave --context out",
        )
    return overview(args.checkpoint, config)


def _print_overview(name: str, found: Overview) -> None:
    parameters = "the weights are not on this machine, or not in safetensors"
    if found.parameters is not None:
        parameters = f"{found.parameters:,} in {', '.join(found.dtypes)}"
    template = {True: "yes", False: "no", None: "not known: the files are not on this machine"}[found.chat_template]
    lines = {
        "architecture": found.architecture,
        "parameters": parameters,
        "context": "not in the config" if found.context is None else f"{found.context:,} tokens",
        "vocabulary": f"{found.vocabulary:,} tokens",
        "chat template": template,
    }
    print(name)
    if found.adapter:
        own = found.adapter["parameters"]
        size = "" if own is None else f", {own:,} parameters"
        print(f"  {'adapter':26}{found.adapter['type']}{size}, on the base {found.adapter['base']}")
    print("\n".join(f"  {label:26}{text}" for label, text in lines.items()))


def _print_rows(place: str, as_json: bool) -> int:
    """Print the account and the lineage of the rows that a data stage wrote."""
    from alignment.durable.read import read_json
    from alignment.models.checkpoints import read_lineage

    account, lineage = read_json(Path(place) / ACCOUNT), read_lineage(place)
    if as_json:
        print(json.dumps({"name": place, "account": account, "lineage": lineage}))
        return 0
    print("\n".join([place, *account_lines(account)]))
    if lineage:
        _print_lineage(lineage)
    return 0


def account_lines(account: dict) -> list[str]:
    """How many rows there are and of how many they were made, and what happened how often."""
    counts = account.get("counts")
    lines = {f"rows ({account.get('kind')})": account.get("rows"), "rows read": account.get("read")}
    lines |= counts if isinstance(counts, dict) else {}
    lines |= {"tokens generated": account.get("tokens")}
    return [f"  {value:9,}  {label}" for label, value in lines.items() if isinstance(value, int)]


def _lineage(args: argparse.Namespace) -> dict | None:
    """The recorded lineage of a checkpoint folder."""
    from alignment.models.checkpoints import read_lineage

    return None if args.checkpoint is None else read_lineage(args.checkpoint)


def _print_lineage(lineage: dict) -> None:
    from alignment.pipeline.records.lineage import lineage_lines

    print("made from")
    print("\n".join(f"  {line}" for line in lineage_lines(lineage)))


def _print_run(run_dir: Path) -> int:
    """Print the lineage of a run directory's final checkpoints, which are no other's parent."""
    from alignment.pipeline.records.lineage import lineages

    for lineage in lineages(run_dir):
        _print_lineage(lineage)
    return 0


def _verify(args: argparse.Namespace) -> int:
    """Compare a checkpoint or rows, or all of a run directory, with their manifests; an adapter's base too."""
    from alignment.durable.manifest import LINEAGE, MANIFEST, read_manifest, require_intact
    from alignment.durable.steps import PROGRESS_FILE
    from alignment.errors import gathered, raise_all
    from alignment.models.checkpoints import require_sound
    from alignment.pipeline.records.record import FILE
    from alignment.text import size_text

    folder = Path(args.checkpoint or "")
    if args.checkpoint is None or not folder.is_dir():
        raise UserError("--verify needs a checkpoint folder", got=args.checkpoint or args.preset)
    run = (folder / FILE).is_file()
    errors: list[UserError] = []
    products = (place for product in ("checkpoint", "data") for place in folder.glob(f"*/{product}"))
    for checkpoint in sorted(products) if run else [folder]:
        with gathered(errors):
            if not (run or any((checkpoint / name).is_file() for name in (MANIFEST, LINEAGE, PROGRESS_FILE))):
                raise UserError(
                    f"{checkpoint} has no manifest to compare its files with",
                    got=f"no {MANIFEST}, as in checkpoints of other programs",
                    expected="a checkpoint that this project wrote",
                    fix="without --verify, `align info` shows what the checkpoint is; every verb looks for damage that "
                    "shows in the files themselves when it loads the checkpoint",
                )
            require_intact(checkpoint)
            require_sound(checkpoint)
            files = read_manifest(checkpoint).values()
            print(f"{checkpoint}: intact, {len(files)} files, {size_text(sum(file['size'] for file in files))}")
    raise_all(errors)
    return 0


def _chain(checkpoint: str) -> dict | None:
    """The recorded chain of a checkpoint's adapters, or of the adapters merged into it."""
    from dataclasses import asdict

    from alignment.models.chain import read_chain, read_merged_from
    from alignment.models.checkpoints import adapter_folder, is_adapter

    if is_adapter(checkpoint):
        chain = read_chain(adapter_folder(checkpoint))
        return None if chain is None else asdict(chain)
    return read_merged_from(checkpoint)


def chain_lines(chain: dict) -> list[str]:
    """A chain from the base up, a line per adapter."""
    lines = [*chain_lines(chain["merged_from"]), "  merged into"] if chain["merged_from"] else []
    how = chain["quantization"]
    quantised = f", in training in {how.get('bnb_4bit_quant_type') or '8 bit'}" if how else ""
    lines.append(f"  {'base':10}{chain['base']}{_digest(chain['base_digest'])}{quantised}")
    return lines + [
        f"  {'adapter':10}{', then '.join(one['stages'])}{_digest(one['digest'])}" for one in chain["links"]
    ]


def _digest(digest: str | None) -> str:
    return f" ({digest[:12]})" if digest else ""


def _config(args: argparse.Namespace, described: bool) -> PreTrainedConfig | None:
    """The config of the preset or checkpoint.

    Args:
        described: the lineage or the chain of the checkpoint is known; then None is returned if there is no config.
    """
    from alignment.models.checkpoints import is_adapter
    from alignment.models.gpt import GPTConfig
    from alignment.models.loading import load_config

    if (args.preset is None) == (args.checkpoint is None):
        raise UserError(
            "align info describes one model",
            got="both a checkpoint and --preset" if args.preset else "neither a checkpoint nor --preset",
            expected=f"a checkpoint, or --preset with one of {', '.join(GPTConfig.preset_names())}",
        )
    if args.preset:
        return GPTConfig.from_preset(args.preset)
    is_model = (Path(args.checkpoint) / "config.json").is_file() or is_adapter(args.checkpoint)
    if described and not is_model:
        return None  # a tokenizer
    return load_config(args.checkpoint)

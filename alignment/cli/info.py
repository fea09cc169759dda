"""`align info`: what a preset or a checkpoint of ours is and costs, and on what an adapter sits."""

from __future__ import annotations

import argparse
import json

from alignment.errors import UserError

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="?", help="folder of a checkpoint of the GPT defined here, or a hub id")
    parser.add_argument("--preset", help="a named model of the lineage; an unknown name lists them")
    parser.add_argument(
        "--context", type=int, help="length of sequence; default: the longest that the model is made for"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def main(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from alignment.models.checkpoints import is_adapter
    from alignment.models.gpt.sizes import sizes

    chain = _chain(args.checkpoint) if args.checkpoint else None
    if chain and not args.json:
        kind = "adapters on a base" if is_adapter(args.checkpoint) else "plain weights, merged of"
        print("\n".join([f"{args.checkpoint}: {kind}", *chain_lines(chain)]))
    name, config = _config(args, chain is not None)
    if config is None:
        if args.json:
            print(json.dumps({"name": name, "adapter_chain": chain}))
        return 0
    if args.context is not None and args.context < 1:
        raise UserError("--context is too small", got=args.context, needed="at least 1")
    found = sizes(config, args.context)
    if args.json:
        print(json.dumps({"name": name, **asdict(found)} | ({"adapter_chain": chain} if chain else {})))
        return 0
    parameters = f"{found.parameters:,}"
    if found.active_parameters != found.parameters:
        parameters += f", {found.active_parameters:,} of them active a token"
    flops = f"{short(found.forward_flops_per_token)} (training: three times as much)"
    cache = f"{short(found.kv_cache_bytes_per_token)}B in 16 bit; {short(found.kv_cache_bytes)}B a sequence"
    memory = f"{short(found.training_bytes)}B for weights, gradients and AdamW in 32 bit; activations on top"
    print(f"{name}, at a context of {found.context:,}")
    print(f"  {'parameters':26}{parameters}")
    print(f"  {'FLOPs per token, forward':26}{flops}")
    print(f"  {'KV cache per token':26}{cache}")
    print(f"  {'memory to train':26}{memory}")
    return 0


def short(number: float) -> str:
    """1.24 G for 1,235,814,400."""
    for size, unit in UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} "


def _chain(checkpoint: str) -> dict | None:
    """What a checkpoint records of the adapters in it, or of those that were merged into it."""
    from dataclasses import asdict

    from alignment.models.chain import read_chain, read_merged_from
    from alignment.models.checkpoints import adapter_folder, is_adapter

    if is_adapter(checkpoint):
        chain = read_chain(adapter_folder(checkpoint))
        return chain and asdict(chain)
    return read_merged_from(checkpoint)


def chain_lines(chain: dict) -> list[str]:
    """A chain from the base outwards, a line each."""
    lines = [*chain_lines(chain["merged_from"]), "  merged into"] if chain["merged_from"] else []
    how = chain["quantization"]
    quantised = f", in training in {how.get('bnb_4bit_quant_type') or '8 bit'}" if how else ""
    lines.append(f"  {'base':10}{chain['base']}{_digest(chain['base_digest'])}{quantised}")
    return lines + [
        f"  {'adapter':10}{', then '.join(one['stages'])}{_digest(one['digest'])}" for one in chain["links"]
    ]


def _digest(digest: str | None) -> str:
    return f" ({digest[:12]})" if digest else ""


def _config(args: argparse.Namespace, known_by_chain: bool) -> tuple:
    """The name and config asked for; no config of another architecture where there is a chain to tell of."""
    from alignment.models.gpt import GPTConfig
    from alignment.models.loading import load_config

    if (args.preset is None) == (args.checkpoint is None):
        raise UserError(
            "align info describes one model",
            got="both a checkpoint and --preset" if args.preset else "neither a checkpoint nor --preset",
            needed=f"a checkpoint, or --preset with one of {', '.join(GPTConfig.preset_names())}",
        )
    if args.preset:
        return args.preset, GPTConfig.from_preset(args.preset)
    config = load_config(args.checkpoint)
    if not isinstance(config, GPTConfig) and known_by_chain:
        return args.checkpoint, None
    if not isinstance(config, GPTConfig):
        raise UserError(
            f"{args.checkpoint} is not of the architecture defined here",
            got=f"model_type {config.model_type}",
            needed=GPTConfig.model_type,
            mend="align import makes it one, where its options allow",
        )
    return args.checkpoint, config

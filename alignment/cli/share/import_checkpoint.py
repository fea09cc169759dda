"""`align import HF_CHECKPOINT`: convert a checkpoint of transformers to this project's architecture."""

import argparse
import shlex


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="HF_CHECKPOINT",
        help="folder or hub id of a GPT, GPT-2, Llama, Qwen3 or Mixtral model, or of an adapter, which is merged",
    )
    parser.add_argument("--output_dir", metavar="DIR", required=True, help="a new or empty folder to write to")


def main(args: argparse.Namespace) -> int:
    from alignment.models.interop import import_checkpoint

    conversion = import_checkpoint(args.checkpoint, args.output_dir)
    print(conversion)
    print(f"every verb accepts it, for example: align chat {shlex.quote(str(conversion.folder))}")
    return 0

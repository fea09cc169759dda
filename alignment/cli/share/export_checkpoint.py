"""`align export CKPT --to TARGET`: write a checkpoint that loads where this project is not installed."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from alignment.models.interop import TARGETS

    parser.add_argument("checkpoint", metavar="CKPT", help="a checkpoint folder (full model or adapter) or hub id")
    parser.add_argument(
        "--to",
        choices=TARGETS,
        required=True,
        help="an architecture of transformers, or self-contained: ours, with its code in the folder",
    )
    parser.add_argument("--output_dir", metavar="DIR", required=True, help="where to write it: a new or empty folder")


def main(args: argparse.Namespace) -> int:
    from alignment.models.interop import export_checkpoint

    conversion = export_checkpoint(args.checkpoint, args.to, args.output_dir)
    print(conversion)
    trust = ", trust_remote_code=True" if args.to == "self-contained" else ""
    print(f'load it with transformers.{conversion.auto_class}.from_pretrained("{conversion.folder}"{trust})')
    return 0

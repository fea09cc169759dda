"""`align export CKPT --to TARGET`: write a checkpoint that loads without this project."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", help="a checkpoint folder (full model or adapter) or hub id")
    parser.add_argument(
        "--to",
        metavar="TARGET",
        required=True,
        help="an architecture of transformers (gpt2, llama, qwen3, mixtral), or self-contained: this project's, with "
        "its code in the folder",
    )
    parser.add_argument("--output_dir", metavar="DIR", required=True, help="a new or empty folder to write to")


def main(args: argparse.Namespace) -> int:
    from alignment.models.interop import export_checkpoint

    conversion = export_checkpoint(args.checkpoint, args.to, args.output_dir)
    print(conversion)
    trust = ", trust_remote_code=True" if args.to == "self-contained" else ""
    print(f'load it with transformers.{conversion.auto_class}.from_pretrained("{conversion.folder}"{trust})')
    return 0

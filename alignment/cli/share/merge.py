"""`align merge CKPT`: merge adapters into their base, and write plain weights with the same outputs."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", help="an adapter's checkpoint folder or hub id")
    parser.add_argument("--output_dir", metavar="DIR", help="a new or empty folder (default: CKPT-merged)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="type of the weights (default: that of the base)"
    )


def main(args: argparse.Namespace) -> int:
    from pathlib import Path

    from alignment.models.merging import merge

    made = merge(args.checkpoint, Path(args.output_dir or f"{args.checkpoint.rstrip('/')}-merged"), args.dtype)
    print(f"{made.folder}: plain weights in {made.dtype}")
    print(f"logits differ from base + adapters by at most {made.difference:.2g}; the largest is {made.largest:.3g}")
    return 0

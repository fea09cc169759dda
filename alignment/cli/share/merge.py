"""`align merge CKPT`: plain weights that say what a base under its adapters says."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", help="the checkpoint of an adapter, or a hub id")
    parser.add_argument("--output_dir", metavar="DIR", help="a folder that is new or empty; default: CKPT-merged")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights; default: as the base was saved"
    )


def main(args: argparse.Namespace) -> int:
    from pathlib import Path

    from alignment.models.merging import merge

    made = merge(args.checkpoint, Path(args.output_dir or f"{args.checkpoint.rstrip('/')}-merged"), args.dtype)
    print(f"{made.folder}: plain weights in {made.dtype}")
    print(f"logits differ by at most {made.difference:.2g} from base + adapters; the largest is {made.largest:.3g}")
    return 0

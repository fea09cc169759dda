"""How fast does text become packed rows, and how much memory does it take?

The whole path (read a JSONL file, tokenize, pack in rows of 1024, write) against the bare fast tokenizer: its
encode_batch on the same texts, which are in memory already, in batches of the same size. `load_source`, `tokenize` and
`pack` are what a stage calls; nothing is in the cache. The text is made up from a seed: words of random letters, as
frequent as words are (Zipf), in documents of 370 words in the mean; the vocabulary of 8192 is learned from it.

Each row is a process of its own, with what it imports and the tokenizer loaded before the clock starts. Repetitions are
interleaved, and rates are medians; ratios are within a repetition, so that what else the machine does weighs on both.
Memory is what the process takes over what it had before: "anonymous" is memory of its own, the figure that counts;
"resident" has the pages of memory-mapped files in it, which the kernel takes back when others need memory.

    python benchmarks/data_speed.py [--quick]

Seed 0, two cores of an Intel Xeon that others were using too (load 4 to 8, hence the low rates), 2026-11-22, 5
repetitions, before this path was joined with filters and mixtures and not again since; all targets met:

                               MB/s  tokens/s  of encode_batch: by processor time, by the clock (each repetition)
    bare encode_batch          0.49    108505  1.00  1.00 (1.00 1.00 1.00 1.00 1.00)
    bare encode_batch_fast     0.56    123645  1.19  1.20 (1.14 0.85 1.36 1.20 1.69)
    the whole path             0.52    115442  1.17  1.20 (1.22 0.90 1.20 1.12 1.27)
      read                             0.9% of its time
      tokenize                        98.3% of its time
      pack                             0.8% of its time

    MB over before                           10 MB                500 MB
                               anonymous  resident   anonymous  resident
      read                             2         5          31        42
      tokenize                        64        78          87       569
      pack                            63        86          90       653

The path encodes with encode_batch_fast, which leaves out the offsets; what it does besides costs about 2% of processor
time. Of the 653 MB resident all but 90 are pages of memory-mapped files.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from alignment.pipeline.records.environment import hardware

VOCABULARY, LENGTH, WORDS = 8192, 1024, 30_000
LETTERS = "eeeeeetttttaaaaooooiiiinnnnssshhhrrrddlluucmmwfgypbvk"
CONTENDERS = {"bare": "bare encode_batch", "bare_fast": "bare encode_batch_fast", "path": "the whole path"}
PARTS = ("read", "tokenize", "pack")


# ---- The text ----


def documents(size: int, seed: int) -> Iterator[str]:
    """Documents of `size` bytes together."""
    rng = np.random.default_rng(seed)
    letters = np.array(list(LETTERS))
    words = ["".join(rng.choice(letters, size=length)) for length in rng.integers(1, 10, size=WORDS)]
    weights = 1 / np.arange(1, WORDS + 1)
    ends = np.cumsum(weights / weights.sum())
    while size > 0:
        count = int(rng.lognormal(5.5, 0.9)) + 5
        chosen = np.minimum(np.searchsorted(ends, rng.random(count)), WORDS - 1).tolist()
        text = " ".join(words[word] + "." * (place % 12 == 11) for place, word in enumerate(chosen))
        size -= len(text)
        yield text


def write_corpus(path: Path, megabytes: float, seed: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for text in documents(int(megabytes * 1e6), seed):
            file.write(json.dumps({"text": text}) + "\n")


# ---- In a process of its own ----


def resident() -> dict[str, float]:
    """MB of this process, all and anonymous, as Linux tells it."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    sizes = {line[0].rstrip(":"): int(line[1]) / 1024 for line in lines if line[0] in ("VmRSS:", "RssAnon:")}
    return {"resident": sizes["VmRSS"], "anonymous": sizes["RssAnon"]}


@contextmanager
def watched(row: dict, part: str) -> Iterator[None]:
    """Seconds and the highest memory of a block go to the row, under the part's name."""
    done, peaks = threading.Event(), resident()

    def watch() -> None:
        while not done.wait(0.02):
            peaks.update({name: max(peaks[name], size) for name, size in resident().items()})

    watcher = threading.Thread(target=watch)
    started, used = time.perf_counter(), time.process_time()
    watcher.start()
    try:
        yield
    finally:
        row[part] = {"seconds": time.perf_counter() - started, "processor": time.process_time() - used}
        done.set()
        watcher.join()
        row[part] |= {name: max(peaks[name], size) - row["before"][name] for name, size in resident().items()}


def run_bare(args: argparse.Namespace) -> dict:
    from transformers import AutoTokenizer

    from alignment.data.tokenizing.tokens import batched

    backend = AutoTokenizer.from_pretrained(args.tokenizer).backend_tokenizer
    encode = backend.encode_batch if args.contender == "bare" else backend.encode_batch_fast
    lines = Path(args.corpus).read_text(encoding="utf-8").splitlines()
    batches = list(batched(json.loads(line)["text"] for line in lines))
    row = {"before": resident()}
    with watched(row, "tokenize"):
        for batch in batches:
            encode(batch)
    return row


def run_path(args: argparse.Namespace) -> dict:
    import datasets  # noqa: F401  (else its import would be timed)
    from transformers import AutoTokenizer

    from alignment.data.reading.sources import load_source
    from alignment.data.tokenizing.packing import pack
    from alignment.data.tokenizing.tokens import tokenize

    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    row = {"before": resident()}
    with watched(row, "read"):
        dataset = load_source(args.corpus, kind="text")
    with watched(row, "tokenize"):
        tokens = tokenize(dataset, tokenizer, args.cache)
    with watched(row, "pack"):
        rows = pack(tokens, LENGTH, tokenizer.pad_token_id)
    return row | {"megabytes": tokens.text_bytes / 1e6, "tokens": tokens.tokens, "full": rows.report.efficiency}


# ---- All of them ----


def run(contender: str, corpus: Path, tokenizer: Path) -> dict:
    with TemporaryDirectory(dir=corpus.parent) as cache:
        options = {"contender": contender, "corpus": corpus, "tokenizer": tokenizer, "cache": cache}
        words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        environment = os.environ | {"HF_DATASETS_CACHE": cache}
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr[-3000:]}")
    row = json.loads(done.stdout.splitlines()[-1])
    parts = [row[part] for part in PARTS if part in row]
    row |= {name: sum(part[name] for part in parts) for name in ("seconds", "processor")}
    return row | {name: max(part[name] for part in parts) for name in ("resident", "anonymous")}


def make_tokenizer(folder: Path, seed: int) -> None:
    from itertools import islice

    from alignment.tokenization import train_tokenizer

    train_tokenizer(islice(documents(10**7, seed), 2000), VOCABULARY, LENGTH).save_pretrained(folder)


def show_speed(rows: dict[str, list[dict]]) -> dict:
    """The table of rates; the figures."""
    megabytes, tokens = rows["path"][0]["megabytes"], rows["path"][0]["tokens"]
    figures = {}
    print(f"{'':24}   MB/s  tokens/s  of encode_batch: by processor time, by the clock (each repetition)")
    for contender, name in CONTENDERS.items():
        seconds = [row["seconds"] for row in rows[contender]]
        pairs = list(zip(rows["bare"], rows[contender], strict=True))
        ratios = [bare["seconds"] / own["seconds"] for bare, own in pairs]
        processor = statistics.median(bare["processor"] / own["processor"] for bare, own in pairs)
        median = statistics.median(seconds)
        figures[contender] = {"mb_per_second": megabytes / median, "tokens_per_second": tokens / median}
        figures[contender] |= {"of_bare": statistics.median(ratios), "ratios": ratios}
        figures[contender]["of_bare_by_processor_time"] = processor
        by_the_clock = f"{statistics.median(ratios):.2f} ({' '.join(f'{ratio:.2f}' for ratio in ratios)})"
        print(f"{name:24}{megabytes / median:7.2f}{tokens / median:10.0f}  {processor:.2f}  {by_the_clock}")
    for part in PARTS:
        share = statistics.median(row[part]["seconds"] / row["seconds"] for row in rows["path"])
        figures["path"][f"share_{part}"] = share
        print(f"  {part:22}{share:15.1%} of its time")
    figures["path"]["full"] = rows["path"][0]["full"]
    return figures


def show_memory(rows: dict[float, dict]) -> dict:
    """The table of memory by size of the corpus; the figures."""
    print(f"\n{'MB over before':24}" + "".join(f"{f'{size:g} MB':>22}" for size in rows))
    print(f"{'':24}" + f"{'anonymous  resident':>22}" * len(rows))
    for part in PARTS:
        cells = [f"{row[part]['anonymous']:.0f}  {row[part]['resident']:8.0f}" for row in rows.values()]
        print(f"  {part:22}" + "".join(f"{cell:>22}" for cell in cells))
    return {f"{size:g} MB": {part: row[part] for part in PARTS} for size, row in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--sizes", type=float, nargs=2, default=[10, 500], help="MB of text; rates are of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a smoke run: the figures mean nothing")
    for name in ("contender", "corpus", "tokenizer", "cache"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)  # of a process of its own
    args = parser.parse_args()
    if args.contender:
        print(json.dumps((run_path if args.contender == "path" else run_bare)(args)))
        return
    if args.quick:
        args.repetitions, args.sizes = 1, [0.2, 1]
    with TemporaryDirectory() as temporary:
        folder, sizes = Path(temporary), args.sizes
        make_tokenizer(folder / "tokenizer", args.seed)
        corpora = {size: folder / f"{size:g}.jsonl" for size in sizes}
        for size, corpus in corpora.items():
            write_corpus(corpus, size, args.seed)
        rows: dict[str, list[dict]] = {contender: [] for contender in CONTENDERS}
        for repetition in range(args.repetitions):  # whoever comes first changes from one to the next
            order = list(CONTENDERS) if repetition % 2 == 0 else list(CONTENDERS)[::-1]
            for contender in order:
                rows[contender].append(run(contender, corpora[sizes[0]], folder / "tokenizer"))
        memory = {sizes[0]: rows["path"][-1], sizes[1]: run("path", corpora[sizes[1]], folder / "tokenizer")}
    figures = {"speed": show_speed(rows), "memory": show_memory(memory)}
    small, large = memory.values()
    targets = {
        "the whole path is at least 0.9 as fast as bare encode_batch": figures["speed"]["path"]["of_bare"] >= 0.9,
        "anonymous memory is independent of the corpus (1.5 times and 32 MB at most)": large["anonymous"]
        <= 1.5 * small["anonymous"] + 32,
        "rows are at least 98% full": figures["speed"]["path"]["full"] >= 0.98,
    }
    print(json.dumps({"figures": figures, "targets": targets, "met": all(targets.values()), "machine": hardware()}))


if __name__ == "__main__":
    main()

"""The tokenizer stage: a byte-level BPE or the characters of the stage's text, special tokens and chat template."""

from dataclasses import dataclass, field
from pathlib import Path

from alignment.callbacks.clock import StageClock
from alignment.data.arguments import DataArguments
from alignment.durable.manifest import new_checkpoint
from alignment.stages import STAGES
from alignment.stages.shared.inputs import load_data
from alignment.stages.shared.result import StageResult
from alignment.tokenization.train import character_tokenizer, train_tokenizer

PARENTS: dict[str, str] = {}


@dataclass
class TokenizerArguments:
    """The tokenizer to train, and its folder."""

    output_dir: str = field(metadata={"help": "The stage's folder; the tokenizer goes to its subfolder `checkpoint`."})
    vocab_size: int = field(default=1024, metadata={"help": "Number of tokens, including special tokens."})
    characters: bool = field(
        default=False,
        metadata={"help": "One token per character of the text, instead of learned tokens; vocab_size is ignored."},
    )
    model_max_length: int = field(default=256, metadata={"help": "Context length that later stages inherit."})
    push_to_hub: bool = field(default=False, metadata={"help": "Push the tokenizer to the hub."})
    hub_model_id: str | None = field(default=None, metadata={"help": "The repository to push to."})


CONFIGS = (TokenizerArguments, DataArguments)


def run(args: TokenizerArguments, data: DataArguments) -> StageResult:
    clock, stage_dir = StageClock(), Path(args.output_dir)
    texts = load_data(data, STAGES["tokenizer"].data, 0, stage_dir)
    train = iter(texts["train"]["text"])
    if args.characters:
        tokenizer = character_tokenizer(train, args.model_max_length)
    else:
        tokenizer = train_tokenizer(train, args.vocab_size, args.model_max_length)
    with new_checkpoint(stage_dir / "checkpoint") as folder:
        tokenizer.save_pretrained(folder)
    held_out = list(texts.get("validation", texts["train"])["text"])
    tokens = sum(map(len, tokenizer(held_out, verbose=False)["input_ids"]))
    if args.push_to_hub:
        tokenizer.push_to_hub(args.hub_model_id or stage_dir.name)
    result = StageResult(
        stage=stage_dir.name,
        method="tokenizer",
        checkpoint=f"{stage_dir.name}/checkpoint",
        parent=None,
        parents={},
        seconds=clock.seconds,
        peak_memory_gb=clock.peak_memory_gb,
        trainable_parameters=0,
        total_parameters=0,
        tokens=0,
        metrics={
            "vocab_size": len(tokenizer),
            "bytes_per_token": sum(len(text.encode()) for text in held_out) / max(tokens, 1),
        },
    )
    result.write(stage_dir)
    return result

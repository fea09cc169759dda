"""The model card in every checkpoint: parent, data, cost, metrics, and how to load it."""

from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, ModelCardData

import reward_models.card.card as reward_card
from alignment.durable.atomic import write_text
from alignment.redaction import redact_text
from alignment.stages import CLASSIFIER, STAGES

if TYPE_CHECKING:
    from alignment.stages.shared.result import StageResult

LOADING = {
    "reward": """import alignment
from transformers import AutoModelForSequenceClassification

model = AutoModelForSequenceClassification.from_pretrained("{checkpoint}")""",
    "reward adapter": """import alignment
from peft import AutoPeftModelForSequenceClassification

model = AutoPeftModelForSequenceClassification.from_pretrained("{checkpoint}", num_labels=1)""",
    "adapter": """import alignment
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("{checkpoint}")""",
    "model": """import alignment
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{checkpoint}")""",
}


def write_card(checkpoint: Path, result: "StageResult", data: str) -> None:
    """Write README.md with the hub's front matter, and for a reward model its reward card."""
    adapter = (checkpoint / "adapter_config.json").is_file()
    kind = " ".join(["reward"] * (STAGES[result.method].checkpoint == CLASSIFIER) + ["adapter"] * adapter) or "model"
    front = ModelCardData(
        library_name="peft" if adapter else "transformers", tags=["alignment-pipeline", result.method]
    )
    numbers = [
        f"| {name} | {value:.4g} |" for name, value in sorted(result.metrics.items()) if isinstance(value, int | float)
    ]
    trained = f"{result.trainable_parameters:,} of {result.total_parameters:,}"
    lines = [
        f"# {result.stage}",
        "",
        f"Made by the {result.method} stage from {result.parent or 'random weights'}, trained on `{data}`: {trained} "
        f"parameters, {result.tokens:,} tokens, {result.seconds:.0f} s, {result.peak_memory_gb:.2f} GB at the peak.",
        "",
        "```python",
        LOADING[kind].format(checkpoint=checkpoint.as_posix()),
        "```",
        "",
        *(["| metric | value |", "|---|---|", *numbers] if numbers else []),
    ]
    judged = result.metrics.get("pairwise")
    if judged:
        lines += ["", "## Reward card", "", reward_card.card_markdown(judged)]
        reward_card.write_card(checkpoint, judged, result.stage)
    card = ModelCard(f"---\n{front.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n")
    write_text(checkpoint / "README.md", redact_text(str(card)))

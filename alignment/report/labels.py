"""Stages, metrics and numbers as the report prints them."""

from dataclasses import dataclass

from alignment import text
from alignment.pipeline.stage_spec import method_of
from alignment.stages import DATA, STAGES, Stage

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
ACCURACIES = ("exact_match", "acc")


OTHER_TONE = 5  # the colour of stages that the table gives none


def stage_facts(stage: str, method: str | None = None) -> Stage | None:
    """A stage's row in the table of stages: that of its recorded method, otherwise of its name; None if unknown."""
    row = method if method in STAGES else method_of(stage)
    return None if row is None else STAGES[row]


def stage_name(stage: str, base: str | None = None) -> str:
    """A stage's label: `SFT`, `DPO 2` for dpo-2, `base` for the stage that every other is compared with.

    A stage whose name begins with no known method has its own name.
    """
    if stage == base:
        return "base"
    method = method_of(stage)
    if method is None:
        return stage
    return " ".join([STAGES[method].label, *filter(None, stage.removeprefix(method).split("-"))])


def stage_tone(stage: str, method: str | None = None) -> int:
    """The number of a stage's colour, which stages of one method share."""
    facts = stage_facts(stage, method)
    return OTHER_TONE if facts is None or facts.tone is None else facts.tone


def makes_rows(stage: str, method: str | None = None) -> bool:
    """Whether a stage writes rows instead of a checkpoint."""
    facts = stage_facts(stage, method)
    return facts is not None and facts.checkpoint == DATA


@dataclass(frozen=True)
class Metric:
    """How the report shows a metric.

    Attributes:
        name: the metric in words.
        scale: values and differences are multiplied by it.
        digits: decimal places.
        unit: unit of a difference, after scaling.
        rank: order of the metrics.
        limits: lowest and highest possible value, as the ends of an axis.
        about: what the score is, for captions.
    """

    name: str
    scale: float = 1.0
    digits: int = 3
    unit: str = ""
    rank: int = 9
    limits: tuple[float, float] | None = None
    about: str = "Mean score"


BITS = "bits_per_byte"
METRICS = {
    "exact_match": Metric("accuracy", 100.0, 1, "points", 0, (0.0, 1.0)),
    "acc": Metric("accuracy", 100.0, 1, "points", 0, (0.0, 1.0)),
    "gold_reward": Metric(
        "gold reward",
        rank=1,
        limits=(-1.0, 1.0),
        about=f"Mean score by the program that knows the truth, from {MINUS}1 to 1",
    ),
    BITS: Metric("bits per byte", digits=4, rank=2),
}


def metric_of(key: str) -> Metric:
    """How a metric is shown; an unknown metric has its own name, in words."""
    return METRICS.get(key) or Metric(key.replace("_", " "))


def variant_texts(variant: dict) -> list[str]:
    """The options that set an eval run apart, in words: `3-shot`, `first 2 of each task`, `split validation`."""
    texts: list[str] = []
    for key, value in variant.items():
        if key == "num_fewshot":
            texts.append(f"{value}-shot")
        elif key == "limit":
            texts.append(f"first {value} of each task")
        else:
            texts += variant_texts(value) if isinstance(value, dict) else [f"{key} {value}"]
    return texts


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number with a true minus sign, zero without a sign; a dash for None, NaN and infinities."""
    return text.decimal(value, digits, sign, missing=DASH).replace("-", MINUS)


def percent(share: float | None) -> str:
    """`0.123` as `12.3%`; a dash for None."""
    return text.percent(share, missing=DASH)


def value_text(metric: str, value: float | None) -> str:
    """A score in its metric's scale and digits."""
    shown = metric_of(metric)
    return number(None if value is None else value * shown.scale, shown.digits)


def suite_prefix(row: dict) -> str:
    """A row's suite, to begin a text with, if the rows' suites are named (headlines.name_suites); otherwise empty."""
    return f"{row['suite']} " if row.get("suite_named") else ""


def delta_text(row: dict) -> str:
    """A comparison's difference and interval, `+52.1 points [49.0, 55.2]`; without an interval, the difference."""
    shown = metric_of(row["metric"])
    delta, low, high = (
        number(None if row.get(key) is None else row[key] * shown.scale, shown.digits, sign=key == "delta")
        for key in ("delta", "ci_low", "ci_high")
    )
    interval = "" if row.get("ci_low") is None else f" [{low}, {high}]"
    return f"{delta}{' ' + shown.unit if shown.unit else ''}{interval}"


def p_text(p: float | None) -> str:
    """A p-value with three decimals; a dash for None."""
    if p is None:
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float | None) -> str:
    """A duration in seconds as text; a dash for None."""
    return DASH if seconds is None else text.duration(seconds)


def count(value: float | None) -> str:
    """`1,234` up to ten thousand, then `12.3k`, `4.56M`, `7.89B`; a dash for None."""
    return DASH if value is None else text.short_number(value)

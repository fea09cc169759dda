"""Names, units and number formats as the report prints them."""

from dataclasses import dataclass

from alignment import text

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
ACCURACIES = ("exact_match", "acc")


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: values and differences are multiplied by `scale` and printed with `digits`."""

    name: str
    scale: float = 1.0
    digits: int = 3
    unit: str = ""
    rank: int = 9


METRICS = {
    "exact_match": Metric("accuracy", 100.0, 1, "points", 0),
    "acc": Metric("accuracy", 100.0, 1, "points", 0),
    "gold_reward": Metric("gold reward", 1.0, 3, "", 1),
    "bits_per_byte": Metric("bits per byte", 1.0, 4, "", 2),
}


def metric_of(key: str) -> Metric:
    return METRICS.get(key) or Metric(key.replace("_", " "))


def stage_name(stage: str, base: str | None = None) -> str:
    """`SFT`, `DPO`; the stage that everything is compared with is called base."""
    if stage == base:
        return "base"
    return stage.upper() if stage in ("sft", "dpo", "ppo", "grpo", "kto") else stage


def variant_texts(variant: dict) -> list[str]:
    """What sets an eval run apart: `3-shot`, `first 2 of each task`, `split validation`."""
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
    """A number with a true minus sign, but for a zero; a dash for what is missing."""
    return text.decimal(value, digits, sign, missing=DASH).replace("-", MINUS)


def percent(share: float | None) -> str:
    return text.percent(share, missing=DASH)


def value_text(metric: str, value: float | None) -> str:
    shown = metric_of(metric)
    return number(None if value is None else value * shown.scale, shown.digits)


def delta_text(row: dict) -> str:
    """`+52.1 points [49.0, 55.2]` of one comparison; without an interval the difference alone."""
    shown = metric_of(row["metric"])
    delta, low, high = (
        number(None if row.get(key) is None else row[key] * shown.scale, shown.digits, sign=key == "delta")
        for key in ("delta", "ci_low", "ci_high")
    )
    interval = "" if row.get("ci_low") is None else f" [{low}, {high}]"
    return f"{delta}{' ' + shown.unit if shown.unit else ''}{interval}"


def p_text(p: float | None) -> str:
    if p is None:
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float | None) -> str:
    return DASH if seconds is None else text.duration(seconds)


def count(value: float | None) -> str:
    """1,234 up to ten thousand, then 12.3k, 4.56M, 7.89B."""
    return DASH if value is None else text.short_number(value)

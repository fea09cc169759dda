"""Axes of a chart: round ticks, and scales from data to pixels."""

import math
from dataclasses import dataclass

LOG_FROM = 4  # ratio of highest to lowest value above which a log scale is used


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high]."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers within [low, high]; the wider the range, the fewer per power of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    span = math.log10(high / low)
    factors = (1, 2, 3, 5) if span < 1.2 else (1, 2, 5) if span < 2.5 else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def short(value: float) -> str:
    """A tick's label: 12k, 1.5, 0.002, 2e-05."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}", 1) if size < 1e-4 or value < 0 else f"{value:.6g}"


@dataclass(frozen=True)
class Scale:
    """Maps data in [low, high] to pixels in [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    count: int = 5  # approximate number of ticks

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else nice_ticks(self.low, self.high, self.count)


def spread(values: list[float], start: float, end: float, log: bool = False, pad: float = 0.05) -> Scale:
    """A scale for all `values` with some margin; `log` applies if they are positive and span a wide range."""
    low, high = min(values), max(values)
    if log and high > LOG_FROM * low > 0:
        return Scale(low / 1.08, high * 1.08, start, end, log=True)
    air = (high - low) * pad if high > low else abs(high) * pad or 1.0
    return Scale(low - air, high + air, start, end)

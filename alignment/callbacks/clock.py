"""Seconds and peak memory of a stage, over all attempts that led to its result."""

import resource
import time
from pathlib import Path

import torch


class StageClock:
    """Measures seconds and peak memory of a stage from its creation.

    Args:
        seconds, peak_memory_gb: figures of the earlier attempts, up to the step checkpoint that training resumes from.
    """

    def __init__(self, seconds: float = 0.0, peak_memory_gb: float = 0.0):
        self.started, self.earlier_seconds, self.earlier_peak = time.monotonic(), seconds, peak_memory_gb
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            reset_peak_rss()

    @property
    def seconds(self) -> float:
        """Seconds of all attempts so far."""
        return round(self.earlier_seconds + time.monotonic() - self.started, 2)

    @property
    def peak_memory_gb(self) -> float:
        """Peak memory of all attempts in GB: of the GPU, or of the process if there is no GPU."""
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_rss()
        return max(self.earlier_peak, round(peak / 1e9, 3))


def reset_peak_rss() -> None:
    """Reset the kernel's record of the peak resident size, so that each stage reports its own (Linux: proc(5))."""
    switch = Path("/proc/self/clear_refs")
    if switch.exists():
        switch.write_text("5")


def peak_rss() -> int:
    """Return the peak resident size of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

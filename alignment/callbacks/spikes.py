"""Loss spikes: recorded, not acted on."""

import logging
from collections.abc import Callable, Sequence
from statistics import median

from transformers import TrainerCallback

WINDOW = 50  # logged losses that a new one is compared with
ENOUGH = 20  # of them, to know what is usual
HIGH = 6.0  # spreads above the median
LEAST_SPREAD = 0.02  # of the median: on a plateau the losses differ by next to nothing
logger = logging.getLogger(__name__)


class LossSpikes(TrainerCallback):
    """Writes down the logged losses that stand out above those before them.

    Args:
        write: called with the trainer's state and what a spike adds to the metrics.
    """

    def __init__(self, write: Callable[..., None]):
        self.write = write

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs:
            return
        before = [entry["loss"] for entry in state.log_history[:-1] if "loss" in entry]
        height = spike_height(before[-WINDOW:], logs["loss"])
        if height > HIGH:
            self.write(state, {"loss_spike": round(height, 2)})
            logger.warning(
                "loss spike at step %d: %.4g, where %.4g was usual",
                state.global_step,
                logs["loss"],
                median(before[-WINDOW:]),
            )


def spike_height(before: Sequence[float], loss: float) -> float:
    """How many spreads a loss lies above the median of those before it; 0 where those are too few to tell.

    The spread is the median absolute deviation, scaled to a normal distribution's standard deviation: earlier spikes
    hardly move it.
    """
    if len(before) < ENOUGH:
        return 0.0
    middle = median(before)
    spread = 1.4826 * median(abs(one - middle) for one in before)
    return (loss - middle) / max(spread, LEAST_SPREAD * abs(middle), 1e-12)

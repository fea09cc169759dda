"""Loss spikes: recorded and warned of, without further action."""

import logging
from collections.abc import Callable, Sequence
from statistics import median

from transformers import TrainerCallback

WINDOW = 50  # previous logged losses that a loss is compared with
ENOUGH = 20  # losses from which the usual level can be estimated
HIGH = 6.0  # spreads above the median
LEAST_SPREAD = 0.02  # as a share of the median: on a plateau the losses hardly differ
logger = logging.getLogger(__name__)


class LossSpikes(TrainerCallback):
    """Records logged losses far above the previous ones.

    Args:
        write: called with the trainer's state and the metrics that a spike adds.
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
                "loss spike at step %d: %.4g; the median of the previous losses is %.4g",
                state.global_step,
                logs["loss"],
                median(before[-WINDOW:]),
            )


def spike_height(before: Sequence[float], loss: float) -> float:
    """Return how many spreads a loss lies above the median of the previous losses; 0 if there are too few.

    The spread is the median absolute deviation, scaled to a normal distribution's standard deviation: earlier spikes
    hardly change it.
    """
    if len(before) < ENOUGH:
        return 0.0
    middle = median(before)
    spread = 1.4826 * median(abs(value - middle) for value in before)
    return (loss - middle) / max(spread, LEAST_SPREAD * abs(middle), 1e-12)

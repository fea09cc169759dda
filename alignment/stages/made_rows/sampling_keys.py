"""Recipe keys of the data stages in which a checkpoint writes: how its replies are sampled."""

from dataclasses import dataclass, field

from alignment.errors import UserError
from alignment.stages.made_rows.data_run import DataStageKeys
from eval.generation.generate import Sampling


@dataclass
class SamplingKeys(DataStageKeys):
    """How replies are generated."""

    temperature: float = field(default=1.0, metadata={"help": "0 for greedy decoding."})
    top_p: float = field(
        default=1.0, metadata={"help": "Sample from the likeliest tokens with this total probability."}
    )
    max_completion_length: int = field(default=128, metadata={"help": "Tokens of a reply at most."})
    batch_size: int = field(default=32, metadata={"help": "Replies that are generated at a time."})

    def sampling(self) -> Sampling:
        """How replies are generated, as `eval.generation` takes it.

        Raises:
            UserError: a value is out of range.
        """
        if self.max_completion_length < 1:  # in the words of the recipe
            problem = "max_completion_length is out of range"
            raise UserError(problem, got=self.max_completion_length, expected="1 or more")
        return Sampling(
            self.temperature, self.top_p, self.max_completion_length, seed=self.seed, batch_size=self.batch_size
        )

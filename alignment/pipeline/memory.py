"""Memory between stages."""

import gc


def free_memory() -> None:
    """Let go of the finished stage's models before the next one loads its own."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

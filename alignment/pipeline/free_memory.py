"""Memory between stages."""

import gc
import sys


def free_memory() -> None:
    """Let go of the finished stage's models before the next one loads its own."""
    import torch

    if "bitsandbytes" in sys.modules:  # whose register has the embeddings of all models that it made an optimizer for
        from bitsandbytes.optim import GlobalOptimManager

        GlobalOptimManager.get_instance().module_weight_config_triple.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

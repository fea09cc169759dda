"""Free memory between stages."""

import gc
import sys


def free_memory() -> None:
    """Free the models of a finished stage before the next stage loads its own."""
    import torch

    if "bitsandbytes" in sys.modules:  # its registry keeps the embeddings of every model that it optimized
        from bitsandbytes.optim import GlobalOptimManager

        GlobalOptimManager.get_instance().module_weight_config_triple.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

"""Several processes that train one model together, as `torchrun` starts them: only the first one writes."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Whether this is the only process, or the first of several."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()

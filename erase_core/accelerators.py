"""What this process holds of accelerators while others work on them. Needs no torch."""

from __future__ import annotations

import gc
import sys


def give_back_memory() -> None:
    """Give back what torch keeps of an accelerator's memory after a stage: the next one's ranks are processes of their own."""
    cuda = sys.modules.get("torch.cuda")
    # Another thread may be in the middle of its import.
    if not getattr(cuda, "is_initialized", bool)():
        return
    # Networks refer to themselves in places, and are alive until they are looked for.
    gc.collect()
    cuda.empty_cache()

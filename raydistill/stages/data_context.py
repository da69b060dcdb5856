"""Ray Data's settings."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import ray.data


@contextlib.contextmanager
def data_settings(**settings: Any) -> Iterator[None]:
    """Ray Data's settings for the datasets made and run within; progress bars are off."""
    context = ray.data.DataContext.get_current()
    # The original exceptions of our functions: wrapped ones lose their cause on the way here.
    settings = {"enable_progress_bars": False, "raise_original_map_exception": True, **settings}
    before = {name: getattr(context, name) for name in settings}
    for name, value in settings.items():
        setattr(context, name, value)
    try:
        with warnings.catch_warnings():
            # How often what dies is started again can be said in no other way yet.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)

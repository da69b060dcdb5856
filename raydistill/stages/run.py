"""The Python API: a whole run, or one of its stages alone; here, or behind a Ray client."""

from __future__ import annotations

import contextlib
import sys
from functools import partial

from raydistill.config import DistillConfig
from raydistill.progress import Chatter, Console
from raydistill.stages.checks import LABEL, TRAIN
from raydistill.stages.job import Job
from raydistill.stages.summary import DistillResult


def distill(config: DistillConfig, console: Console | None = None) -> DistillResult:
    """Label a corpus and train the student on the labels; continues an earlier run of the same options.

    Raises RaydistillError for what the user can mend; nothing is begun then.
    """
    return run_stages(config, (LABEL, TRAIN), console)


def label(config: DistillConfig, console: Console | None = None) -> DistillResult:
    """The teacher stage alone: make or continue the label store. Raises RaydistillError."""
    return run_stages(config, (LABEL,), console)


def train(config: DistillConfig, console: Console | None = None) -> DistillResult:
    """The student stage alone, from a label store: `config.labels`, or OUTPUT_DIR/labels. Raises RaydistillError."""
    return run_stages(config, (TRAIN,), console)


def run_stages(
    config: DistillConfig, stages: tuple[str, ...], console: Console | None = None, *, own_process: bool = False
) -> DistillResult:
    """Run some stages, here or behind a Ray client.

    Args:
        own_process: this process is there for the run alone: what it prints goes to the run's log.

    Raises:
        RaydistillError.
    """
    with Chatter() if own_process else contextlib.nullcontext() as chatter:
        console = console or (chatter.console if chatter else Console())
        if config.address or "ray" in sys.modules:
            from raydistill.stages.remote import behind_client, run_behind_client

            if behind_client(config.address):
                return run_behind_client(config.address, partial(_run_here, config, stages), console)
        return _run_here(config, stages, console, chatter)


def _run_here(
    config: DistillConfig, stages: tuple[str, ...], console: Console, chatter: Chatter | None
) -> DistillResult:
    return Job.prepare(config, stages).execute(console, chatter)

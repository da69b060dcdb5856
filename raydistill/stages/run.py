"""The Python API: a whole run, or one of its stages alone; here, or behind a Ray client."""

from __future__ import annotations

import contextlib
import sys
from functools import partial

from raydistill.chatter import Chatter
from raydistill.config import LABEL, TRAIN, DistillConfig
from raydistill.progress import Console
from raydistill.result import DistillResult
from raydistill.stages.checks import expect_absolute_paths
from raydistill.stages.job import Job


def distill(config: DistillConfig, console: Console | None = None) -> DistillResult:
    """Label a corpus and train the student on the labels; continues an earlier run of the same options.

    Args:
        console: where progress is told (`raydistill.progress.Console`); by default standard error.

    Raises:
        RaydistillError: what the user can mend. Bad options, models and files that cannot be read are found before
            anything is written; a bad line far into the corpus, a disk that fills up, processes that die again and
            again, or too many texts that cannot be scored, later: what is finished is kept, and the same call goes on.
        KeyboardInterrupt: SIGINT or SIGTERM, which are handled in the main thread while a stage runs.
    """
    return run_stages(config, (LABEL, TRAIN), console)


def label(config: DistillConfig, console: Console | None = None) -> DistillResult:
    """The teacher stage alone: make or continue the label store. Raises as `distill`."""
    return run_stages(config, (LABEL,), console)


def train(config: DistillConfig, console: Console | None = None) -> DistillResult:
    """The student stage alone, from a label store: `config.labels`, or OUTPUT_DIR/labels. Raises as `distill`."""
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
            from raydistill.stages.ray_client import behind_client, run_behind_client

            if behind_client(config.address):
                expect_absolute_paths(config)
                return run_behind_client(config.address, partial(_run_here, config, stages), console)
        return _run_here(config, stages, console, chatter)


def _run_here(
    config: DistillConfig, stages: tuple[str, ...], console: Console, chatter: Chatter | None
) -> DistillResult:
    return Job.prepare(config, stages).execute(console, chatter)

"""The command line: its commands, and what becomes of errors and signals. The flags: `flags.py`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

import raydistill
from raydistill.chatter import Chatter, quiet_libraries
from raydistill.config import LABEL, TRAIN, options_of
from raydistill.errors import ConfigError, RaydistillError
from raydistill.flags import GroupedCommand, collect_config, config_options
from raydistill.option_values import SHARE
from raydistill.progress import STANDARD_OUTPUT, Console
from raydistill.refusals import disk_refusal

SETTINGS = {
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "help_option_names": ["-h", "--help"],
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(raydistill.__version__, message="raydistill %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Distil a slow zero-shot NLI classifier into a small, fast one, on one machine or on a Ray cluster."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _command(name: str, help: str, stages: tuple[str, ...]) -> Callable[[Callable[..., Any]], click.Command]:
    """A command that runs some stages: it takes all options, and its help shows those that they look at."""
    shown = {option.name for option in options_of(stages)} - ({"labels"} if LABEL in stages else set())

    def decorate(function: Callable[..., Any]) -> click.Command:
        return cli.command(name, cls=GroupedCommand, context_settings=SETTINGS, help=help)(
            config_options(click.pass_context(function), shown)
        )

    return decorate


@_command("run", "Label a corpus with the teacher, then train the student on the labels.", (LABEL, TRAIN))
def run(ctx: click.Context, **flags: Any) -> None:
    _execute(ctx, flags, (LABEL, TRAIN))


@_command(LABEL, "The teacher stage alone: corpus to label store (OUTPUT_DIR/labels).", (LABEL,))
def label(ctx: click.Context, **flags: Any) -> None:
    _execute(ctx, flags, (LABEL,))


@_command(TRAIN, "The student stage alone, from a label store (--labels, or OUTPUT_DIR/labels).", (TRAIN,))
def train(ctx: click.Context, **flags: Any) -> None:
    _execute(ctx, flags, (TRAIN,))


@cli.command("demo", context_settings=SETTINGS | {"ignore_unknown_options": False, "allow_extra_args": False})
@click.option("--output-dir", default="raydistill-demo", show_default=True, help="Where the demo is laid out.")
@click.option("--address", default=None, help="Ray cluster to join, as for run.")
@click.option("--texts", default=700, show_default=True, type=click.IntRange(1, 1825), help="News texts to distil on.")
def demo(output_dir: str, address: str | None, texts: int) -> None:
    """A real run, offline, in a minute or two: BBC News texts, a bundled teacher, a student from all-MiniLM-L6-v2."""
    from raydistill.stages.demo import prepare_demo, run_demo
    from raydistill.stages.job import Job

    with Chatter() as chatter:
        files, config = prepare_demo(output_dir, texts, address)
        run_demo(files, Job.prepare(config, (LABEL, TRAIN)), chatter)


@cli.command("verify", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("output_dir")
@click.option("--sample", default=0.001, show_default=True, help="Share of texts to score again, 32 at least; 0: none.")
@click.option("--trust-remote-code", is_flag=True, help="Run the code that the teacher brings along, as for run.")
@click.option(
    "--allow-pickle-weights", is_flag=True, help="Take the teacher's weights from a pickled file, as for run."
)
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def verify(output_dir: str, sample: float, as_json: bool, **trust: bool) -> int:
    """Check what a run has left: record, files, rows, counts, corpus, teacher, student, checkpoints.

    One line for each check, with - for one that was not made; the exit code is 1 if any fails.
    """
    from raydistill.verify import verify_run

    if faults := SHARE.faults("sample", sample):
        raise ConfigError(f"{faults[0]}.")
    quiet_libraries()
    logging.getLogger("raydistill").addHandler(logging.NullHandler())  # the checks say what is to be said
    checks, console = [], Console(sys.stdout)
    for check in verify_run(output_dir, sample, **trust):
        checks.append(check)
        if not as_json:
            state = {True: "ok", False: "FAILED", None: "-"}[check.passed]
            console.say(f"{state:6}  {check.name:7}  {check.found}")
    if as_json:
        console.write(json.dumps([dataclasses.asdict(check) for check in checks], indent=2) + "\n")
    return 1 if any(check.passed is False for check in checks) else 0


def _execute(ctx: click.Context, flags: dict[str, Any], stages: tuple[str, ...]) -> None:
    config = collect_config(flags, ctx.args)
    from raydistill.stages.run import run_stages

    run_stages(config, stages, own_process=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0; 1 where a check of `verify` failed; 2 for what the user can mend; 130 or 143 when stopped.
    """
    stop = signal.SIGINT

    def terminate(number: int, frame: Any) -> None:
        nonlocal stop
        stop = signal.SIGTERM
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    try:
        os.getcwd()
    except FileNotFoundError:
        return _fail("the current folder is gone. Change to one that is there.", 2)
    try:
        result = cli.main(
            args=list(arguments) if arguments is not None else None, prog_name="raydistill", standalone_mode=False
        )
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except RaydistillError as error:
        return _fail(str(error), 2)
    except OSError as error:
        if _is_of_output(error):
            return _fail(f"standard output: {os.strerror(error.errno or 0).lower()}.", 2)
        if refusal := disk_refusal(error):
            return _fail(str(refusal), 2)
        raise
    except (KeyboardInterrupt, click.Abort):
        return _fail("stopped. What is finished is kept: the same command goes on from there.", 128 + stop)
    return result if isinstance(result, int) else 0


def _is_of_output(error: OSError) -> bool:
    """Whether a result could not be printed: by the console, or by click, which prints help."""
    frames = traceback.extract_tb(error.__traceback__)
    if not any(Path(frame.filename).match("click/utils.py") for frame in frames[-2:]):
        return error.filename == STANDARD_OUTPUT
    with contextlib.suppress(OSError):
        Console(sys.stdout).write("")  # what is left in its buffer would be tried again at the end
    return True


def _fail(message: str, code: int) -> int:
    Console().say(f"Error: {' '.join(message.split())}")
    return code


def _have_all_streams() -> None:
    """Open what the process was started without, as by `>&-`: else a file would take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def entry() -> None:
    """The `raydistill` command."""
    _have_all_streams()
    code = main()
    if code > 128:
        # Stopped in the midst of things: as the interpreter takes them down, Ray's would still have something to say.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)

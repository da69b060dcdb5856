"""The one family of errors that a user can mend. Everything else keeps its traceback."""

from __future__ import annotations

import re

from raydistill.redaction import without_secrets

DETAIL = re.compile(r".*Detail: \[errno \d+\] ")  # of pyarrow, which repeats the path in front of it
MOST_SHOWN = 100  # characters of a value in an error line


class RaydistillError(Exception):
    """Bad input, or machines that fail: one line that says what, where and how to mend it.

    The command line prints it and exits with 2. Wherever else it ends up, in a log of Ray's too, it holds no secret:
    they are taken out here.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(message))


class ConfigError(RaydistillError):
    """An option is unknown, of the wrong type, or out of range."""


class DivergedError(ConfigError):
    """A training has come to weights that are no numbers."""


class CorpusError(RaydistillError):
    """The corpus or the class names cannot be read as asked."""


class ModelError(RaydistillError):
    """A teacher or student cannot be loaded or used as one."""


class ConversionError(ModelError):
    """A teacher cannot be converted, whatever it is to score."""


class EngineError(ModelError):
    """A teacher cannot be run as asked: by that backend, or in that number format."""


class RunDirError(RaydistillError):
    """The output directory cannot hold this run."""


class DamagedError(RunDirError):
    """A file of the output directory is not what was written, as after a power cut."""


class ResourceError(RaydistillError):
    """The cluster cannot be reached, or cannot fit the plan."""


class FaultError(RaydistillError):
    """The machines failed more often, or for longer, than the run may bear."""


class DeviceLostError(Exception):
    """A GPU answers no more: nothing is to be had of it until a new process has it."""


def first_line(error: Exception) -> str:
    """What a library's error says in its first line, without the full stop and without secrets."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = reason.strip().split("\n")[0].rstrip(".")
    return without_secrets(DETAIL.sub("", line))


def shown(value: object) -> str:
    """A value in quotation marks, as it stands in an error line: of a long one, the beginning."""
    text = without_secrets(repr(value))  # before a part of one cannot be known for it
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def counted(number: int, noun: str) -> str:
    """1 file, 2 files."""
    return f"{number:,} {noun}" + "s" * (number != 1)

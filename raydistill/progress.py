"""The console: one live line for each stage, and a summary at the end."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from stat import S_ISCHR
from types import TracebackType
from typing import TextIO

from raydistill.redaction import without_secrets

LIVE_SECONDS, PLAIN_SECONDS = 0.2, 15.0
ERASE = "\r\x1b[K"  # a terminal's line, wholly

STANDARD_OUTPUT = "standard output"
JOINERS = "\u200c\u200d"  # parts of words and emoji: they command nothing


def printable(text: str) -> str:
    """A text in which what commands a terminal or turns the direction of writing is spelt out, as \\x1b and \\u202e."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in JOINERS else repr(character)[1:-1] for character in text
    )


class Console:
    """Where the user reads. Writes to standard error, so that standard output stays free for results.

    Names, paths and what libraries say come from outside: a line is printed without secrets and without commands.

    Args:
        columns: the width of the terminal that the stream ends in, where it cannot tell itself.
    """

    def __init__(self, stream: TextIO | None = None, columns: int | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self._columns, self._lock = columns, threading.Lock()
        self.live = columns is not None or self.stream.isatty()

    @property
    def columns(self) -> int:
        """The width of the terminal; 80 where it does not know, or is gone."""
        with contextlib.suppress(OSError):
            return self._columns or os.get_terminal_size(self.stream.fileno()).columns or 80
        return 80

    def say(self, text: str = "") -> None:
        """Print a line; on a terminal in the place of a stage's, which then comes again below it."""
        self.write((ERASE if self.live else "") + printable(without_secrets(text)) + "\n")

    def write(self, text: str) -> None:
        """Print it as it is, or leave it out where it has no room.

        Nothing is said any more once nobody can read it, as behind `| head` or on a closed terminal.

        Raises:
            OSError: what was to be a result, on standard output, has no room.
        """
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError as error:
            descriptor = self.stream.fileno()
            gone = error.errno == errno.EPIPE or (error.errno == errno.EIO and S_ISCHR(os.fstat(descriptor).st_mode))
            with self._lock:  # another thread may be at it
                kept, nowhere = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                self.stream.flush()  # what is left in the stream's buffer goes there
                if not gone:  # there may be room again when something else is to be said
                    os.dup2(kept, descriptor)
                os.close(nowhere)
                os.close(kept)
            if self.stream is sys.stdout and not gone:
                raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from None

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        """Print names and values, aligned."""
        width = max((len(name) for name, _ in rows), default=0)
        for name, value in rows:
            self.say(f"  {name.ljust(width)}  {value}")

    def stage(self, name: str, unit: str, total: int | None = None) -> Progress:
        """Begin a stage's line."""
        return Progress(self, name, unit, total)


class Progress:
    """A stage's line: rewritten in place on a terminal, printed now and then elsewhere. Use it in a `with`.

    Attributes:
        moved_at: when the stage last got on, by `time.monotonic`.
        over: whether it has ended, however that was.
    """

    def __init__(self, console: Console, name: str, unit: str, total: int | None) -> None:
        self.console, self.name, self.unit, self.total = console, name, unit, total
        self.started = self._shown_at = self.moved_at = time.monotonic()
        self._first: tuple[float, dict[str, int]] | None = None  # time and amounts at the first update
        self._amounts, self._note, self._width = {unit: 0}, "", 0
        self._passed = self._to_pass = 0
        self.over = False

    def __enter__(self) -> Progress:
        self._show("starting")
        return self

    def update(
        self, done: int, note: str = "", work: Mapping[str, int] | None = None, *, passed: int = 0, to_pass: int = 0
    ) -> None:
        """Say how far the stage is.

        Args:
            done: units done, of the total.
            note: shown at the end of the line.
            work: what else is done, by unit, of which the rates are shown too.
            passed: how many of these were done before: they say nothing of how fast the work is.
            to_pass: how many of the others were, about.
        """
        if done != self._amounts[self.unit] or self._first is None:
            self.moved_at = time.monotonic()
        self._amounts, self._note = {self.unit: done, **(work or {})}, note
        self._passed, self._to_pass = passed, to_pass
        # Rates are taken from the first update on: what comes before it is start-up, not work.
        self._first = self._first or (time.monotonic(), self._worked)
        if time.monotonic() - self._shown_at >= (LIVE_SECONDS if self.console.live else PLAIN_SECONDS):
            self._show(self._status())

    def touch(self) -> None:
        """Say that the stage gets on with what its unit does not count."""
        self.moved_at = time.monotonic()

    @property
    def _worked(self) -> dict[str, int]:
        """What has been done by work."""
        return self._amounts | {self.unit: self._amounts[self.unit] - self._passed}

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return time.monotonic() - self.started

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over = True
        if kind is None:
            self._show(f"{self._amounts[self.unit]:,} {self.unit} · {duration(self.seconds)}", final=True)
        elif self._first:
            self._show(self._status(), final=True)
        elif self.console.live:
            self.console.write("\n")

    def _status(self) -> str:
        """What is wanted most comes first: a terminal that has no room for all of it is told less, in fewer words."""
        assert self._first is not None
        since, before = self._first
        elapsed = max(time.monotonic() - since, 1e-9)
        done, worked, left = self._amounts[self.unit], self._worked, None
        if self.total and done < self.total and before[self.unit] < worked[self.unit]:
            to_do = max(self.total - done - self._to_pass, 0)
            left = to_do * elapsed / (worked[self.unit] - before[self.unit])
        share = f"{min(done / self.total, 1):.0%}" if self.total else ""
        rates = {unit: (amount - before.get(unit, 0)) / elapsed for unit, amount in worked.items()}
        rates = {unit: rate for unit, rate in rates.items() if rate}
        whole = [
            f"{done:,} of {self.total:,} {self.unit} ({share})" if self.total else f"{done:,} {self.unit}",
            f"ETA {duration(left)}" if left is not None else "",
            *(f"{rate:,.{1 if rate < 100 else 0}f} {unit}/s" for unit, rate in rates.items()),
            self._note,
        ]
        if self._fits(status := " · ".join(filter(None, whole))):
            return status
        brief = [
            share or whole[0],
            f"ETA {clock(left)}" if left is not None else "",
            ", ".join(f"{rounded(rate)} {unit}" for unit, rate in rates.items()) + "/s" if rates else "",
            *self._note.split(" · "),
        ]
        parts = list(filter(None, brief))
        while len(parts) > 1 and not self._fits(" · ".join(parts)):
            parts.pop()
        return " · ".join(parts)

    def _line(self, status: str) -> str:
        return f"{self.name.ljust(6)} {status}"

    def _fits(self, status: str) -> bool:
        return not self.console.live or len(self._line(status)) < self.console.columns

    def _show(self, status: str, *, final: bool = False) -> None:
        self._shown_at = time.monotonic()
        line = self._line(status)
        if self.console.live:
            # Pad over what the line before left; a terminal too narrow for it would keep the overhang.
            room = max(self.console.columns - 1, 20)
            text = line[:room]
            self.console.write("\r" + text.ljust(self._width) + ("\n" if final else ""))
            self._width = len(text)
        else:
            self.console.say(line)


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def clock(seconds: float) -> str:
    """The same in less room: 00:12, 03:20, 2:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes:02d}:{rest:02d}"


def rounded(rate: float) -> str:
    """A rate in two digits, or three below a thousand: 4.5, 226, 11k, 9.1M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= 0.9995 * size:
            return f"{rate / size:.{1 if rate < 9.95 * size else 0}f}{unit}"
    return f"{rate:.{1 if rate < 9.95 else 0}f}"

"""Everybody else's chatter: what this process prints, its libraries' C++ as well, goes to a log file."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import IO, TextIO

from raydistill.progress import Console
from raydistill.redaction import without_secrets


def quiet_libraries() -> None:
    """Have Transformers, the hub and Ray say little, here and in processes that are started from here.

    The first two ask when they are imported.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of weights too, which are not even read here
    # Whether tokens guard a Ray that listens on the loopback interface alone.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


class _Redacted(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


class Chatter:
    """All that this process prints, its libraries' C++ as well, caught in a file; `console` still reaches the user.

    It is a temporary file until `keep_in` gives it a name. For the command line only: a notebook's own output must not
    be taken away.
    """

    def __enter__(self) -> Chatter:
        sys.stdout.flush()
        sys.stderr.flush()
        self._kept = [os.dup(1), os.dup(2)]
        self._user = os.fdopen(os.dup(self._kept[1]), "w", encoding="utf-8", errors="replace")
        self.console = Console(self._user)
        self._catch(tempfile.TemporaryFile())
        self._handler = logging.StreamHandler(os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace"))
        self._handler.handleError = lambda record: None  # type: ignore[method-assign]  # there is no room in the log
        self._handler.setFormatter(_Redacted("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(self._handler)
        return self

    def keep_in(self, log: Path) -> None:
        """From here on, and what was caught before, in this file; an earlier run's is added to."""
        caught = self._sink
        sys.stdout.flush()
        sys.stderr.flush()
        caught.seek(0)
        sink = log.open("ab", buffering=0)
        shutil.copyfileobj(caught, sink)
        self._catch(sink)
        caught.close()
        os.dup2(sink.fileno(), self._handler.stream.fileno())

    def _catch(self, sink: IO[bytes]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._sink = sink
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self._handler)
        for stream, number in (sys.stdout, 1), (sys.stderr, 2), (self._handler.stream, self._handler.stream.fileno()):
            _flush(stream, number)
        self._handler.close()
        self._handler.stream.close()
        for kept, number in zip(self._kept, (1, 2), strict=True):
            os.dup2(kept, number)
            os.close(kept)
        self._sink.close()
        self._user.close()


def _flush(stream: TextIO, number: int) -> None:
    """Write what a stream holds back, or drop it where the log has no room for it: it is not for the user."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
        stream.flush()

"""How a stage is ended before its time: by a signal, in an orderly way, or by whoever finds that it cannot go on."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_stage: Stop | None = None  # the main thread's, while it is in one


class Stop:
    """Whether a stage is to end. Made by `orderly_stop`.

    The first signal only asks for it; the second one, or the end of the grace, does what a signal does otherwise.

    Attributes:
        asked_at: when it was asked for, by `time.time`; None before.
    """

    def __init__(self, say: Callable[[str], None], grace: float) -> None:
        self._say, self._grace = say, grace
        self.asked_at: float | None = None
        self._signal = 0
        self._fault: Exception | None = None
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None
        self._teller: threading.Thread | None = None

    @property
    def asked(self) -> bool:
        """Whether what is under way is to be finished, and nothing more begun."""
        return self.asked_at is not None

    def fail(self, fault: Exception) -> None:
        """End the stage with an error, from another thread, whatever it waits for."""
        self._fault = self._fault or fault
        if self._before:
            _rouse()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._fault:
            raise KeyboardInterrupt  # nothing else gets out of ray.get; `orderly_stop` says what it was
        if not self.asked and self._grace > 0:
            self._signal, self.asked_at = number, time.time()
            # In a thread: the main one may have been interrupted while it was at the console.
            line = f"       stopping: what is under way has {self._grace:g} s to finish; a second signal stops at once"
            self._teller = threading.Thread(target=self._tell, args=(line,), daemon=True)
            self._teller.start()
            self._timer = threading.Timer(self._grace, _rouse)
            self._timer.daemon = True
            self._timer.start()
        else:
            self._as_before(self._signal or number, frame)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(ValueError, OSError):  # the console may be closed by then
            self._say(line)

    def _as_before(self, number: int, frame: FrameType | None) -> None:
        handler = self._before[number]
        if callable(handler):
            handler(number, frame)
        raise KeyboardInterrupt

    def _install(self) -> None:
        global _stage
        _stage = self
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as SIGINT is in a script's background
                self._before[number] = signal.signal(number, self._handle)

    def _remove(self) -> None:
        global _stage
        if self._timer:
            self._timer.cancel()
        if self._teller:
            self._teller.join(1)
        if self._before:
            _stage = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def conclude(self) -> None:
        """Let the signal have its way, if there was one: what was under way is finished."""
        if self.asked:
            self._as_before(self._signal, None)


@contextlib.contextmanager
def orderly_stop(say: Callable[[str], None], grace: float) -> Iterator[Stop]:
    """Within it, SIGINT and SIGTERM ask first, and take effect at its end.

    Signals reach the main thread alone; in another one they are left as they are, and a fault only ends the block.

    Args:
        say: told in a line that a stop was asked for.
        grace: seconds from then on until the signal takes effect, wherever the stage is; 0 for none.

    Raises:
        KeyboardInterrupt: a signal came, or what the handler that was there before raises.
        Exception: what `Stop.fail` was given.
    """
    stop = Stop(say, grace)
    if threading.current_thread() is threading.main_thread():
        stop._install()
    try:
        yield stop
    except BaseException as error:
        if stop._fault:
            raise stop._fault from error
        if stop.asked and isinstance(error, Exception):  # the cluster may have had the signal too
            logger.warning("while it was stopped", exc_info=True)
            stop.conclude()
        raise
    finally:
        stop._remove()
    if stop._fault:
        raise stop._fault
    stop.conclude()


def end_run(fault: Exception) -> None:
    """End what the main thread is at, from another thread: in a stage with this error, else as Ctrl-C does."""
    if _stage:
        _stage.fail(fault)
    else:
        _rouse()


def _rouse() -> None:
    """A true signal to the main thread, out of whatever call of the system's it waits in.

    One that it heeds: a script's background job is started with SIGINT ignored.
    """
    ident = threading.main_thread().ident
    assert ident is not None
    for number in SIGNALS:
        if callable(signal.getsignal(number)):
            signal.pthread_kill(ident, number)
            return


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Have a signal that asks for the end wait for that of what is within, which is short.

    An exception that a handler raises during a fork is lost, and what Python does after a fork is skipped: `logging`
    would stay locked for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main one
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])

"""Who is at work in a folder: a lock with its owner and a heartbeat, on disks and object stores alike."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime

import psutil

from raydistill.errors import RunDirError
from raydistill.files import Folder, parse_record
from raydistill.periodic import every
from raydistill.stopping import end_run

HEARTBEAT_SECONDS, DEAD_SECONDS = 10.0, 60.0
PREFIX, SUFFIX = "lock-", ".json"
_kept: set[str] = set()  # the locks of this process: of one that could not be removed, it is no owner any more
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Owner:
    """Whose a lock is; the values by default are of one that cannot be read.

    Attributes:
        kernel: where the process id is valid: a boot of a machine, and a container on it.
        started: when the process was, in seconds since the boot: ids are used again.
        shared: it only keeps out those who would not share.
    """

    host: str = "a host unknown"
    kernel: str = ""
    pid: int = 0
    started: int = 0
    user: str = "?"
    since: str = "?"
    shared: bool = False

    @classmethod
    def here(cls, *, shared: bool) -> Owner:
        """This process."""
        process = psutil.Process()
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(
            socket.gethostname(), kernel(), process.pid, _started(process), process.username(), since, shared=shared
        )

    def lives(self, silence: float) -> bool:
        """Whether it is at work, as seen from this process, when its lock is `silence` seconds old."""
        if self.kernel != kernel():
            return silence < DEAD_SECONDS
        try:
            process = psutil.Process(self.pid)
            return abs(_started(process) - self.started) <= 2 and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            # /proc may hide others' processes: then it is their lock that tells.
            return _is_anothers(self.pid) and silence < DEAD_SECONDS

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.host}, since {self.since}"


def kernel() -> str:
    """Where a process id is valid. Linux says it exactly; elsewhere host names are trusted to differ."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as boot_id:
            return f"{boot_id.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _is_anothers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _started(process: psutil.Process) -> int:
    """Since the boot: the time of day may be set anew meanwhile."""
    return round(process.create_time() - psutil.boot_time())


class Lock:
    """A hidden file in a folder. Made, kept and removed by `hold`."""

    def __init__(self, folder: Folder, say: Callable[[str], None], *, shared: bool) -> None:
        self.folder, self.owner = folder, Owner.here(shared=shared)
        self.name = f".{PREFIX}{uuid.uuid4().hex}{SUFFIX}"
        self.fault: RunDirError | None = None
        self._say, self._in_main = say, threading.current_thread() is threading.main_thread()

    def write(self) -> float:
        """Make the file, or make it anew; when that was, by the clock of the file system."""
        self.folder.write(self.name, json.dumps(dataclasses.asdict(self.owner)).encode())
        return self.folder.modified(self.name)

    def expect_no_rival(self, now: Callable[[], float]) -> None:
        """Raise RunDirError where another lives and would not share; the locks of those who are gone are removed.

        Of one on another machine, or in another container, nothing is known but its lock: it is looked at until it is
        renewed, or has not been for so long that its owner must be gone.

        Args:
            now: by the clock of the file system, as are the times that locks were last renewed at.
        """
        first: dict[str, tuple[float, float]] = {}  # when each lock had been renewed as it was met, and when that was
        while rivals := self.rivals(now()):
            looked, told = time.monotonic(), bool(first)
            for name, (owner, renewed) in rivals.items():
                if owner.kernel == kernel() or renewed > first.setdefault(name, (renewed, looked))[0]:
                    raise RunDirError(
                        f"{self.folder.path}: another run is at work there ({owner}). Wait for its end, or give "
                        "another folder."
                    )
            if all(looked - first[name][1] > DEAD_SECONDS for name in rivals):
                return  # whatever the clocks say
            if not told:
                self._say(
                    f"{self.folder.path}: {next(iter(rivals.values()))[0]} was at work there a moment ago; waiting to "
                    f"see whether it still is, for {DEAD_SECONDS:g} s at most"
                )
            time.sleep(min(HEARTBEAT_SECONDS / 10, 1.0))

    def rivals(self, now: float) -> dict[str, tuple[Owner, float]]:
        """Others who live and would not share, by their locks, and when these were last renewed."""
        found = {}
        for name in self.folder.hidden(PREFIX, SUFFIX):
            if name == self.name:
                continue
            try:
                # Read first: a client of a shared file system then asks for the time anew.
                owner = _owner(self.folder.read(name))
                renewed = self.folder.modified(name)
            except FileNotFoundError:
                continue  # given up meanwhile
            was_ours = (owner.kernel, owner.pid) == (self.owner.kernel, self.owner.pid) and name not in _kept
            if was_ours or not owner.lives(now - renewed):
                try:
                    self.folder.delete(name)
                except RunDirError:
                    continue  # a reader that may not write: what is dead keeps nobody out
                self._say(f"{self.folder.path}: the run that held it is gone ({owner}); going on in its place")
            elif not (self.owner.shared and owner.shared):
                found[name] = owner, renewed
        return found

    def keep(self) -> Iterator[None]:
        """At each step, renew the lock. If another has taken the folder while this process slept, end the run."""
        renewed = time.time()
        while True:
            yield
            lost = False
            try:
                self.folder.touch(self.name)
                now = self.folder.modified(self.name)
                if time.time() - renewed > DEAD_SECONDS:
                    lost = bool(self.rivals(now))
                renewed = time.time()
            except FileNotFoundError:
                lost = True
            except RunDirError as error:
                logger.warning("a lock could not be renewed: %s", error)
            if lost:
                self.fault = RunDirError(
                    f"{self.folder.path}: this run stood still for more than {DEAD_SECONDS:g} s, and another one has "
                    "taken its place. What is finished is kept; once the other has ended, the same command goes on."
                )
                if self._in_main:
                    end_run(self.fault)
                return


@contextlib.contextmanager
def hold(folder: Folder, say: Callable[[str], None], *, shared: bool = False) -> Iterator[None]:
    """Keep others out of a folder, or with `shared` only those who would not share it.

    Unless it is shared, the folder is also made, and temporary files that others have left there are removed. Everyone
    writes a lock first and then looks for others' locks, so of two at least one sees the other (and at the very same
    moment, both may). A lock is good while its process runs, or, seen from another machine or container, while it is
    renewed. It ends with the process, however that ends.

    Args:
        say: told in a line of a lock whose owner is gone, or may be.

    Raises:
        RunDirError: another is at work there, or was put in this one's place while this process stood still.
    """
    lock = Lock(folder, say, shared=shared)
    _kept.add(lock.name)
    if not shared:
        folder.create()
    try:
        lock.write()
    except RunDirError:
        if not shared:
            raise
        # A reader that may not write keeps nobody out, and looks by its own clock.
        lock.expect_no_rival(time.time)
        yield
        return
    try:
        lock.expect_no_rival(lock.write)
        if not shared:
            folder.sweep()
        with every(HEARTBEAT_SECONDS, lock.keep()):
            yield
    finally:
        _kept.discard(lock.name)
        with contextlib.suppress(RunDirError):  # then it is seen to be dead later
            folder.delete(lock.name)
        if lock.fault:
            raise lock.fault


def _owner(content: bytes) -> Owner:
    try:
        return Owner(**parse_record(content))
    except (ValueError, TypeError):
        return Owner()

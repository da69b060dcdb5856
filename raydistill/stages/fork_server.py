"""The process that a Ray's workers are forks of: see `forks`."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import dataclasses
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydistill.quick_imports import quick_imports
from raydistill.stages import fork_worker

# What not every worker needs, or not the first.
MORE = ["ray.data", "raydistill.stages.teacher_actor", "ray.train.torch", "raydistill.stages.train_worker"]
SAME_NUMBERS = "Ray has drawn a random number, or cannot, before workers were forked: they would all draw the same."
REQUEST_SECONDS = 5.0
PR_SET_PDEATHSIG = 1  # of prctl: what the end of the process that forks sends to its forks


def main() -> None:
    """Import what takes long; then fork for whoever asks, while the driver is there. Each fork becomes a worker."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as Ray does: workers have the driver's grace
    listener, given = socket.socket(fileno=int(sys.argv[1])), set(os.environ)
    atexit.register(_end_at_once, os.getpid())  # before others do, so that it comes last
    with quick_imports():
        import numpy as np
        import torch

        import raydistill.student
        import raydistill.teacher  # noqa: F401

        request = _next(listener)
        if request is None:
            return
        os.environ.update(request.environment)  # Ray looks at it once, when it is imported
        given |= request.environment.keys()
        _import_ray()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how forks end, or needs to in what is imported yet
    if not _forks_differ():
        raise SystemExit(SAME_NUMBERS)
    while request and not request.is_fork():
        _import_more(listener)
        request = _next(listener)
    if request:
        listener.close()
        np.random.seed()  # or they would be the same in every fork
        torch.seed()
        request.take_over({name: value for name, value in os.environ.items() if name not in given})
        runpy.run_path(sys.argv[0], run_name="__main__")


def _end_at_once(server: int) -> None:
    """The last that a fork does: Python would throw away all that it has of the server, for 0.3 s of CPU."""
    if os.getpid() != server:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # of a worker Ray asks no more than what it has told it before


def _import_ray() -> None:
    """Import Ray, and have it draw no number for a class of actors, as it does where it is told of one."""
    import ray.actor

    class ActorClassID:
        @staticmethod
        def from_random() -> Any:
            return ray.ActorClassID(os.urandom(ray.ActorClassID.size()))

    actor: Any = ray.actor
    actor.ActorClassID = ActorClassID


def _import_more(listener: socket.socket) -> None:
    """Import what later workers need, a library at a time, for as long as nobody asks.

    The forks that there are end with this process, so it lives on whatever happens.
    """
    while MORE and not select.select([listener, sys.stdin], [], [], 0)[0]:
        try:
            with quick_imports():
                importlib.import_module(MORE.pop(0))
        except Exception:  # whoever needs it says so
            traceback.print_exc()
        if not _forks_differ():
            listener.close()
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(SAME_NUMBERS))
            sys.stdin.read()
            raise SystemExit(SAME_NUMBERS)


def _forks_differ() -> bool:
    """Whether Ray, which seeds its generator when it first needs one, would draw another number in each fork."""
    drawn = _random_id()
    return bool(drawn) and drawn != _random_id()


def _random_id() -> bytes:
    """What Ray would draw in a fork."""
    told, tell = os.pipe()
    if not os.fork():
        try:
            from ray import ObjectRef

            os.write(tell, ObjectRef.from_random().binary())
        finally:
            os._exit(0)
    os.close(tell)
    with open(told, "rb") as reader:
        return reader.read()


def _next(listener: socket.socket) -> _Request | None:
    """The next one that can be understood; None once the driver is gone."""
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        asking, descriptors = listener.accept()[0], list[int]()
        asking.settimeout(REQUEST_SECONDS)
        try:
            content, descriptors, _, _ = socket.recv_fds(asking, 1 << 20, 3)
            while not content.endswith(b"\n") and (more := asking.recv(1 << 20)):
                content += more
            return _Request(asking, descriptors, **json.loads(content))
        except (OSError, ValueError, TypeError):
            for descriptor in descriptors:
                os.close(descriptor)
            asking.close()  # who asks and hears nothing helps himself
    return None


@dataclasses.dataclass
class _Request:
    """What Ray has given to a process that asks for a fork, which is to take it over."""

    asking: socket.socket
    descriptors: list[int]
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    files: tuple[int, int]
    oom_score_adj: str

    def is_fork(self) -> bool:
        """Fork, if that is still wanted; whether this is the fork."""
        with self.asking:
            try:
                self.asking.sendall(fork_worker.STILL_THERE)
                if self.asking.recv(1) == fork_worker.YES:
                    if not os.fork():
                        return True
                    self.asking.sendall(fork_worker.DONE)
            except OSError:
                pass
        for descriptor in self.descriptors:
            os.close(descriptor)
        return False

    def take_over(self, environment: Mapping[str, str]) -> None:
        """Become what was asked for.

        Args:
            environment: what imported libraries have put there, beside what the request has.
        """
        import resource  # which other systems need not have

        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)  # as Ray's own: it ends the whole group of a worker that it ends
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for number, descriptor in enumerate(self.descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update({**environment, **self.environment})
        os.chdir(self.folder)
        resource.setrlimit(resource.RLIMIT_NOFILE, self.files)  # which Ray has raised meanwhile
        with contextlib.suppress(OSError):  # where memory is short, workers are to go first
            Path("/proc/self/oom_score_adj").write_text(self.oom_score_adj)
        sys.argv = self.arguments

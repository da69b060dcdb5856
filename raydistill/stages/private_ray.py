"""A Ray of our own: started for a run, and gone with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
import ray
from ray._private import node as ray_node
from ray._private import ray_constants, services
from ray._private import worker as ray_worker

from raydistill.errors import ResourceError, shown
from raydistill.option_values import is_text
from raydistill.stages.forks import forked_workers
from raydistill.stages.replaced import replaced
from raydistill.stopping import signals_wait

# What our workers need of their environment.
WORKER_ENVIRONMENT = {
    # By default threads spin at barriers: where another process wants the same core, a forward pass of two threads took
    # three times as long as one of passive ones.
    "OMP_WAIT_POLICY": "PASSIVE",
    # By default what oneDNN has made for a thousand shapes is kept, some 0.4 MB for each: hardly two batches have the
    # same, but the layers of a model do, and that is what these are for.
    "LRU_CACHE_CAPACITY": "32",  # PyTorch's
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
}
PRIVATE_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray ends an idle worker after a second, and starting the next one, for every block read, takes a CPU second, or as
    # a fork a fifth. But an idle one wakes up a hundred times a second, for ever.
    "RAY_idle_worker_killing_time_threshold_ms": "10000",
    "RAY_worker_niceness": "0",  # Ray's 15 would yield to whatever else the machine does
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for the next check: by default up to 2 s
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody drains a private Ray
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",  # Ray Train's controller does
    # A machine that others keep busy takes longer than the 30 to 60 s after which Ray gives up.
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_worker_register_timeout_seconds": "300",
}

# Stands in for a node's two agents: the node ends when one of them does, and they end with the node.
STAND_IN = subprocess.list2cmdline([sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"])
NO_AGENTS = [
    f"--dashboard_agent_command={STAND_IN}",
    f"--runtime_env_agent_command={STAND_IN}",
    "--metrics-agent-port=-1",  # Ray's word for none
    "--metrics_export_port=-1",
    "--dashboard_agent_listen_port=-1",
    "--runtime_env_agent_port=1",  # has to be a port, and nobody asks there
]
# A driver waits for workers that are started beforehand, and nothing else in it goes on. A fork is made in no time.
NONE_BEFOREHAND = ["--num_prestart_python_workers=0"]

LEAST_FREE_BYTES = 8 << 20
_private = False


@contextlib.contextmanager
def private_ray(settings: dict[str, Any]) -> Iterator[bool]:
    """A Ray of our own, which ends here too; whether its workers are forked."""
    global _private
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
    _expect_room(folder)
    with _environment(PRIVATE_ENVIRONMENT | WORKER_ENVIRONMENT), forked_workers() as forks:
        with _lean(forks), _whole():
            try:
                ray.init(address="local", include_dashboard=False, **settings)
            except OSError as error:
                if "AF_UNIX" not in str(error):
                    raise
                raise ResourceError(
                    f"{folder}: too long a path for Ray's sockets, which lie below it. Name a shorter one, as by "
                    "export RAY_TMPDIR=/tmp."
                ) from None
        _private = True
        try:
            yield forks
        finally:
            _private = False
            ray.shutdown()


def _expect_room(folder: str) -> None:
    """Raise ResourceError where Ray's files cannot lie, or have no room: it would wait for a minute, and fail."""
    if not is_text(folder):
        raise ResourceError(
            f"{shown(folder)}: Ray keeps its files there, and cannot with a name that is not UTF-8. Name another "
            "folder, as by export RAY_TMPDIR=/tmp."
        )
    with contextlib.suppress(OSError):  # not there yet
        if (free := shutil.disk_usage(folder).free) < LEAST_FREE_BYTES:
            raise ResourceError(
                f"{folder}: is full ({free >> 20} MB free), and Ray keeps its files there. Free some space, or name a "
                "folder elsewhere, as by export RAY_TMPDIR=/var/tmp."
            )


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have these variables set within, but for those that the user has set; processes inherit them."""
    ours = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def is_private_ray() -> bool:
    """Whether Ray was started by `connection` for this very run, so that nothing can be left behind in it."""
    return _private


@contextlib.contextmanager
def _lean(forks: bool) -> Iterator[None]:
    """Have a Ray that is started within listen on the loopback interface alone, and start no process it can do without.

    Ray has no setting for either. On Linux it replaces the address 127.0.0.1 by one that other machines can reach; on
    Windows and macOS it does not, and has a switch for that, which is set here: so nobody else can even try its token.
    The servers of the dashboard and of the autoscaler start even where there is none, and take two seconds of CPU.

    So do the agents of a node, one for metrics that nobody reads and one for environments of workers' own. Worse, the
    node ends itself if they have not started after 15 s, as on a busy machine or from a slow disk. No worker has an
    environment of its own, but this process's: under `uv run`, Ray would give each one, with a copy of this directory.

    Args:
        forks: workers are forked.
    """
    start_process = services.start_ray_process

    def start_with_flags(command: list[str], kind: str, *given: Any, **options: Any) -> Any:
        if kind == ray_constants.PROCESS_TYPE_RAYLET:
            command = [*command, *NO_AGENTS, *(NONE_BEFOREHAND if forks else [])]
        return start_process(command, kind, *given, **options)

    with (
        replaced(ray_constants, ENABLE_RAY_CLUSTER=False),
        replaced(ray_node.Node, start_api_server=lambda *_, **__: None, start_monitor=lambda *_: None),
        replaced(ray_worker, _maybe_modify_runtime_env=lambda *_: None),
        replaced(services, start_ray_process=start_with_flags),
    ):
        yield


@contextlib.contextmanager
def _whole() -> Iterator[None]:
    """Have a Ray that is started within start completely, or leave no process behind.

    A signal waits until the process that is being started is there. Ray knows a node's processes only once all of them
    are; and some of their children would take a minute to see that the others are gone.
    """
    nodes: list[Any] = []
    node_class: Any = ray_node.Node
    start = node_class.start_head_processes

    def start_noted(node: Any) -> None:
        nodes.append(node)
        start(node)

    with (
        replaced(node_class, start_head_processes=start_noted),
        replaced(services, start_ray_process=signals_wait()(services.start_ray_process)),
    ):
        try:
            yield
        except BaseException:
            theirs = [child for node in nodes for child in _children(node)]
            ray.shutdown()
            for node in nodes:
                node.kill_all_processes(check_alive=False, allow_graceful=True)
            for child in theirs:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            raise


def _children(node: Any) -> Iterator[psutil.Process]:
    """The processes that a node's processes have started."""
    for info in [info for kind in node.all_processes.values() for info in kind]:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield from psutil.Process(info.process.pid).children(recursive=True)

"""Ray itself: start or join it, and see what it has."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

# Ray looks at these when it is imported. A machine that others keep busy takes longer to start it than 30 seconds.
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")

import ray
import ray.exceptions
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.state import available_resources_per_node  # no public call tells what a single node has free
from ray._private.utils import read_ray_address
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import raydistill
from raydistill.errors import ResourceError, RunDirError, first_line
from raydistill.files import Folder
from raydistill.label_store import RECORD as LABELS_RECORD
from raydistill.resources import Node
from raydistill.stages.faults import DEATHS, our_errors
from raydistill.stages.forks import can_fork
from raydistill.stages.private_ray import WORKER_ENVIRONMENT, private_ray

OWN = (None, "local")  # addresses of a Ray of our own
CONNECT_SECONDS = 10
GIVE_BACK_SECONDS = 5.0  # what an actor had may count as taken for so long after its end
ANSWER_SECONDS = 120.0  # for a node to look at a folder
CLIENT_SCHEME = "ray://"
# The head starts a server for each client, which now and then hangs in its fork; the next one does well.
CLIENT_ATTEMPTS, STARTUP_FAULT = 3, "Initialization failure from server"
FORWARDED_ENVIRONMENT = ("HF_HUB_OFFLINE", "HF_ENDPOINT")
T = TypeVar("T")
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def connection(address: str | None, *, worker_output: bool = False) -> Iterator[bool]:
    """Ray for the length of a run; whether its workers start at once, with all libraries that models need.

    Without an address, or with "local", a private Ray is started and stopped at the end, whatever happens. With one
    (auto, host:port, ray://…) the cluster there is joined and never stopped; the package's own code goes along, since
    its workers may not have it. In a process that is connected already, that connection is used and kept.

    Args:
        worker_output: print here what workers print.

    Raises:
        ResourceError: there is no cluster to join.
    """
    if ray.is_initialized():
        if address not in (*OWN, "auto") and not str(address).startswith(CLIENT_SCHEME):
            _warn_if_elsewhere(str(address))
        yield False
        return
    on_terminate = signal.getsignal(signal.SIGTERM)

    def put_back() -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)

    settings: dict[str, Any] = {"log_to_driver": worker_output, "logging_level": logging.WARNING}
    try:
        with private_ray(settings) if address in OWN else _joined(str(address), settings) as forks:
            put_back()  # Ray has put its own there
            yield forks
    finally:
        put_back()  # and the default one at its end


def _warn_if_elsewhere(address: str) -> None:
    """Log a warning where host:port is not the Ray that this process is connected to."""
    here = ray.get_runtime_context().gcs_address
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError, ValueError, TypeError):  # of what is no name of a host
        host = socket.gethostbyname(host)
    if port != here.rpartition(":")[2] or host not in (here.rpartition(":")[0], "127.0.0.1"):
        logger.warning("--address %s is not joined: this process is connected to a Ray at %s already", address, here)


@contextlib.contextmanager
def _joined(address: str, settings: dict[str, Any]) -> Iterator[bool]:
    """A cluster that is there, and stays, and forks no workers. Raises ResourceError."""
    place = expect_listener(address)
    forwarded = {name: os.environ[name] for name in FORWARDED_ENVIRONMENT if name in os.environ}
    if address.startswith(CLIENT_SCHEME):
        # A client may show a token that nobody asks for; a driver may not, as it would ask for one in its turn.
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    package = str(Path(raydistill.__file__).parent)
    runtime_env = {"py_modules": [package], "env_vars": WORKER_ENVIRONMENT | forwarded}
    attempts = CLIENT_ATTEMPTS if address.startswith(CLIENT_SCHEME) else 1
    for attempt in range(1, attempts + 1):
        try:
            ray.init(address=place, runtime_env=runtime_env, **settings)
            break
        except ray.exceptions.RuntimeEnvSetupError as error:
            reason = str(error).splitlines()[-1].split(". ")[0]
            raise ResourceError(
                f"--address {address}: the cluster cannot be given what workers need ({reason}). Under `uv run` that "
                "is the working directory, too: name what is large there in .rayignore, or export "
                "RAY_ENABLE_UV_RUN_RUNTIME_ENV=0, and workers run in the cluster's own Python."
            ) from None
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            if attempt == attempts or STARTUP_FAULT not in str(error):
                raise _no_cluster(address, first_line(error)) from None
    try:
        yield False
    finally:
        ray.shutdown()


def will_fork(address: str | None) -> bool:
    """Whether `connection` is about to start a Ray that forks its workers."""
    return not ray.is_initialized() and address in OWN and can_fork()


def in_a_worker(work: Callable[..., T], *given: Any) -> T:
    """What a function gives in a forked worker, which has this process's folder; or here, if that dies.

    Raises as the function does.
    """
    remote: Any = ray.remote(num_cpus=0, max_retries=0)(work)
    with our_errors():
        try:
            return ray.get(remote.remote(*given))
        except DEATHS:  # as where memory is short
            return work(*given)


def expect_listener(address: str) -> str:
    """Where to join, host:port or ray://host:port, by an address that is not one of `OWN`.

    Raises ResourceError where nobody listens: Ray would try for ever.

    `auto` is the cluster that RAY_ADDRESS names, or that `ray start` has started here last. Ray itself would look for
    any that runs, and take somebody's private one.
    """
    if address.startswith(CLIENT_SCHEME) and importlib.util.find_spec("grpc") is None:
        raise ResourceError(f"--address {address}: the Ray client is not installed: pip install 'ray[client]'.")
    place = os.environ.get("RAY_ADDRESS") or read_ray_address() if address == "auto" else address
    if place is None:
        raise _no_cluster(address, "`ray start` has started none here, and RAY_ADDRESS is not set")
    host, colon, port = place.removeprefix(CLIENT_SCHEME).rpartition(":")
    if not colon:
        raise ResourceError(f"--address {address}: must be auto, local, host:port or ray://host:port.")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from None
    return place


def _no_cluster(address: str, reason: str) -> ResourceError:
    return ResourceError(
        f"--address {address}: no Ray cluster can be joined there ({reason}). Start one with `ray start --head`, set "
        "RAY_AUTH_MODE=token if it asks for a token, or leave --address out."
    )


def free_nodes() -> list[Node]:
    """What each living node has free, once the actors of work that has ended are gone, or nothing is given back."""
    least, since = _taken(), time.monotonic()
    while least > 0 and time.monotonic() - since < GIVE_BACK_SECONDS:
        time.sleep(0.1)
        if (taken := _taken()) < least:
            least, since = taken, time.monotonic()
    free = available_resources_per_node()
    return [
        Node(free[i].get("CPU", 0.0), free[i].get("GPU", 0.0), name, _memory(free[i]))
        for i, name in _living_nodes().items()
        if i in free
    ]


def _living_nodes() -> dict[str, str]:
    """Their addresses by their ids."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def _memory(free: Mapping[str, float]) -> float:
    """Bytes; what Ray leaves to its object store counts as well, as it is taken only when it is needed."""
    return free["memory"] + free.get("object_store_memory", 0.0) if "memory" in free else math.inf


def expect_shared(folder: Folder, labels: Folder | None = None) -> None:
    """Have every node read and write in the output directory. Raises ResourceError naming one that cannot.

    Args:
        labels: a label store elsewhere that every node must see.
    """
    nodes = _living_nodes()
    if len(nodes) == 1:
        return
    token = f".{uuid.uuid4().hex}"
    try:
        folder.write(f"{token}.tmp", b"")
        _expect_seen(nodes, "--output-dir", folder, f"{token}.tmp", writes=True)
    finally:
        folder.sweep()
    if labels:
        _expect_seen(nodes, "--labels", labels, LABELS_RECORD, writes=False)


def _expect_seen(nodes: Mapping[str, str], option: str, folder: Folder, name: str, *, writes: bool) -> None:
    """Raise ResourceError where a node cannot read that file, or cannot write beside it, or says nothing."""
    look: Any = ray.remote(num_cpus=0, max_retries=0)(_look)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            folder.path, name, f".{uuid.uuid4().hex}.tmp" if writes else None
        ): address
        for node, address in nodes.items()
    }
    for ref, address in asked.items():
        try:
            fault = ray.get(ref, timeout=ANSWER_SECONDS)
        except ray.exceptions.GetTimeoutError:
            fault = f"no answer within {ANSWER_SECONDS:g} s"
        except (*DEATHS, ray.exceptions.TaskUnschedulableError):
            continue  # it has gone meanwhile; where it comes back, its tasks say themselves what they lack
        if fault:
            raise ResourceError(
                f"{option} {folder.path}: node {address} cannot use it ({fault}). Give a folder on a file system that "
                "all nodes share, or an object store that all may read and write, or leave --address out to use this "
                "machine alone."
            )


def _look(path: str, name: str, draft: str | None) -> str | None:
    """What is in the way of reading a file there, and of writing another one; None where nothing is."""
    try:
        folder = Folder(path)
        folder.read(name)
        if draft:
            folder.write(draft, b"")
    except FileNotFoundError:
        return "it does not see it"
    except RunDirError as error:
        return str(error)
    return None


def _taken() -> float:
    """CPUs in use on all nodes together."""
    return ray.cluster_resources().get("CPU", 0.0) - ray.available_resources().get("CPU", 0.0)

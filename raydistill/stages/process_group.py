"""How train workers find each other. Where they are on one machine, no port of it is open to others for that.

Ray Train's controller reads this too: PyTorch is imported where there is something to be done with it.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.util import TrainingFramework

from raydistill.scratch import own_prefix


class ProcessGroup(BackendConfig):
    """PyTorch's process group, by way of a file where all workers are on one machine.

    By Ray's own way, which is that of workers on several machines, PyTorch's TCPStore is open to everyone around.
    A lone worker gets no process group: Trainer sees a single process, where DistributedDataParallel would only copy
    gradients to and fro.

    Args:
        backend: of `torch.distributed`: "gloo" or "nccl".
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend

    @property
    def backend_cls(self) -> Any:
        return _Backend

    @property
    def framework(self) -> Any:
        return TrainingFramework.TORCH

    def to_dict(self) -> dict[str, Any]:
        return {"backend": self.backend}


class _Backend(Backend):
    share_cuda_visible_devices = True
    _folder: str | None = None  # where workers of one machine meet

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        number = len(worker_group)
        if number == 1:
            return
        if len(set(worker_group.execute(_node))) > 1:
            from ray.train.torch.config import TorchConfig, _TorchBackend

            _TorchBackend().on_start(worker_group, TorchConfig(backend_config.backend))
            return
        self._folder = worker_group.execute_single(0, _meeting_place)
        joining = [
            worker_group.execute_single_async(rank, _join, backend_config.backend, rank, number, self._folder)
            for rank in range(number)
        ]
        ray.get(joining)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        if len(worker_group) == 1:
            return
        from ray.train.torch.config import _TorchBackend

        folder, self._folder = self._folder, None
        try:
            _TorchBackend().on_shutdown(worker_group, backend_config)
        finally:
            if folder:  # not waited for: a worker that hangs in a collective answers no more
                worker_group.execute_single_async(0, shutil.rmtree, folder, ignore_errors=True)


def _node() -> str:
    return ray.get_runtime_context().get_node_id()


def _meeting_place() -> str:
    return tempfile.mkdtemp(prefix=own_prefix())  # which the next run removes, if this process is killed


def _join(backend: str, rank: int, number: int, folder: str) -> None:
    from ray.train.torch.config import TorchConfig, _set_torch_distributed_env_vars, _setup_torch_process_group

    _set_torch_distributed_env_vars()
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, loopback)
    _setup_torch_process_group(backend, rank, number, f"file://{folder}/workers", TorchConfig().timeout_s)

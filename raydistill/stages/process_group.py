"""How train workers find each other. Where they are on one machine, no port of it is open to others for that."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend


class ProcessGroup(TorchConfig):
    """PyTorch's process group, by way of a file where all workers are on one machine.

    By Ray's own way, which is that of workers on several machines, PyTorch's TCPStore is open to everyone around.
    A lone worker gets no process group: Trainer sees a single process, where DistributedDataParallel would only copy
    gradients to and fro.
    """

    @property
    def backend_cls(self) -> Any:
        return _Backend


class _Backend(_TorchBackend):
    _folder: str | None = None  # where workers of one machine meet

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        number = len(worker_group)
        if number == 1:
            return
        if len(set(worker_group.execute(_node))) > 1:
            super().on_start(worker_group, backend_config)
            return
        worker_group.execute(_set_torch_distributed_env_vars)
        self._folder = worker_group.execute_single(0, tempfile.mkdtemp, prefix="raydistill-")
        joining = [
            worker_group.execute_single_async(rank, _join, backend_config, rank, number, self._folder)
            for rank in range(number)
        ]
        ray.get(joining)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        super().on_shutdown(worker_group, backend_config)
        if self._folder:
            worker_group.execute_single(0, shutil.rmtree, self._folder, ignore_errors=True)
            self._folder = None


def _node() -> str:
    return ray.get_runtime_context().get_node_id()


def _join(config: TorchConfig, rank: int, number: int, folder: str) -> None:
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, loopback)
    assert config.backend is not None
    _setup_torch_process_group(config.backend, rank, number, f"file://{folder}/workers", config.timeout_s)

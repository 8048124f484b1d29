"""What the processes of one training tell each other: when to go on, and what the leader found.

In: Processes and the device. Out: ProcessGroup. Writes: nothing. One process alone joins nothing and waits for nobody.

A process that ends with an error closes its connections, so the others stop with an error too; torchrun ends them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as distributed

from leukolens.artifacts import Record
from leukolens.errors import SettingsError
from leukolens.processes import Processes, started_processes

# By the kind of device: what gradients travel through.
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}

# The leader computes frozen features while the others wait: VGG16 takes hours on a large data set. A leader that dies is
# noticed at once whatever this is; only one that hangs would be waited for.
_LONGEST_WAIT = timedelta(days=7)


@dataclass(frozen=True)
class ProcessGroup:
    """`processes` and the `channel` (through main memory, whatever the device) that they speak through; None if alone."""

    processes: Processes
    channel: distributed.ProcessGroup | None = None

    def wait(self) -> None:
        """Return when every process has come to this line."""
        if self.channel is not None:
            distributed.barrier(group=self.channel)

    def tell(self, message: Record) -> Record:
        """Give the leader's `message` to every process; what the others pass is not sent. All must call it."""
        told = [message]
        if self.channel is not None:
            distributed.broadcast_object_list(told, src=0, group=self.channel)
        return told[0]


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, if it started any, and leave them when the block ends well.

    Args:
        device: "cpu" or "cuda" where there are several processes; each takes the GPU of its local rank.

    Raises:
        SettingsError: the device cannot be shared out among processes, or a host has fewer GPUs than processes.
    """
    processes = started_processes()
    if not processes.are_several:
        yield ProcessGroup(processes)
        return
    _take_device(device, processes)
    distributed.init_process_group(BACKENDS[device])
    yield ProcessGroup(processes, _channel())
    # Not after an error: leaving can wait for processes that are no more, and the end of this one closes everything.
    distributed.destroy_process_group()


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, in each of them; every process must call it with the same shape."""
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total


def _channel() -> distributed.ProcessGroup:
    """All processes again, with more patience; through main memory, for NCCL knows only what lies on a GPU."""
    group = distributed.new_group(backend="gloo", timeout=_LONGEST_WAIT)
    if not isinstance(group, distributed.ProcessGroup):
        raise TypeError(f"A group of all processes is a ProcessGroup, received {group!r}")
    return group


def _take_device(device: str, processes: Processes) -> None:
    if device not in BACKENDS:
        raise SettingsError(
            f"Several processes cannot share the device {device}.",
            expected=" or ".join(BACKENDS),
            received=f"{processes.count} processes on {device}",
            remedy="train in one process, or give --device cpu",
        )
    if device == "cuda":
        if torch.cuda.device_count() < processes.per_host:
            raise SettingsError(
                f"{processes.per_host} processes on this host have {torch.cuda.device_count()} GPUs.",
                expected="one GPU for each process",
                received=f"--nproc-per-node {processes.per_host}",
                remedy="start as many processes as the host has GPUs",
            )
        torch.cuda.set_device(processes.local_rank)

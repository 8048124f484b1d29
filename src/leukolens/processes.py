"""Which of several processes this one is: `torchrun` starts them, on one host or on several, to train one network.

In: the environment that torchrun sets. Out: Processes. Writes: nothing. No deep-learning framework is imported here, so
that the command line and the progress can ask without waiting seconds for one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from leukolens.errors import SettingsError

# What torchrun sets for each process it starts; other launchers set some of the rest, but not this one.
_STARTED_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True)
class Processes:
    """`count` processes on all hosts, `per_host` of them on each; this one is number `rank`, on its host `local_rank`."""

    count: int = 1
    rank: int = 0
    per_host: int = 1
    local_rank: int = 0

    @property
    def are_several(self) -> bool:
        """Whether there is any other process."""
        return self.count > 1

    @property
    def is_leader(self) -> bool:
        """Whether this process writes files and speaks to the user; exactly one does."""
        return self.rank == 0

    @property
    def hosts(self) -> int:
        """Number of hosts."""
        return self.count // self.per_host


ALONE = Processes()


def started_processes(environment: Mapping[str, str] | None = None) -> Processes:
    """Read what torchrun has set; ALONE where it started nothing.

    Args:
        environment: variables by name; None means those of this process.

    Raises:
        SettingsError: the hosts have different numbers of processes.
    """
    found = os.environ if environment is None else environment
    if _STARTED_BY_TORCHRUN not in found:
        return ALONE
    names = ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK", "GROUP_WORLD_SIZE")
    count, rank, per_host, local_rank, hosts = (int(found[name]) for name in names)
    if per_host * hosts != count:
        raise SettingsError(
            f"{count} processes on {hosts} hosts are not the same number on each.",
            expected="as many processes on one host as on the next",
            received=f"{per_host} on this one",
            remedy="start torchrun with the same --nproc-per-node on every host",
        )
    return Processes(count, rank, per_host, local_rank)

"""Started by torchrun in test_processes.py: `leukolens train`, with every image that a process reads written down.

Arguments: the folder to write `seen-RANK.json` into, the epoch in which process 1 dies (0: never), then those of
`leukolens train`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

# Before PyTorch warns of anything; numbers are as pyproject.toml has them for the tests.
warnings.simplefilter("error")

from leukolens import cli  # noqa: E402
from leukolens.training import batches, finetuning  # noqa: E402

SEEN: list[list[int]] = []


def main() -> None:
    folder, dies_in, rank = Path(sys.argv[1]), int(sys.argv[2]), int(os.environ["RANK"])
    read, start = batches.PixelBatches.__getitem__, finetuning.FineTuning.on_train_batch_start

    def remember(self: Any, positions: list[int]) -> Any:
        SEEN.append([int(row) for row in self.rows[positions]])
        return read(self, positions)

    def die(self: Any, batch: Any, batch_index: int) -> None:
        if rank == 1 and self.current_epoch + 1 == dies_in and batch_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        start(self, batch, batch_index)

    batches.PixelBatches.__getitem__ = remember
    finetuning.FineTuning.on_train_batch_start = die
    sys.argv = ["leukolens", "train", *sys.argv[3:]]
    try:
        cli.main()
    finally:
        (folder / f"seen-{rank}.json").write_text(json.dumps(SEEN))


if __name__ == "__main__":
    main()

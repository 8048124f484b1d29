"""What the contenders work on: the same pixels and the same image files for all.

In: a work folder and, where given, a folder of images. Out: nothing. Writes, in the work folder: phantom cells (unless a
folder is given); leukolens' manifest of the cells of the most common size; `cells.txt`, their paths; `pixels.npy`, uint8
[images, side, side, 3]: the cells over and over, each time a grey level lighter, so that no two images are the same.

    python -m contenders.preparation --work FOLDER
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contenders.measuring import CELLS_FILE, MANIFEST_FILE, PIXELS_FILE
from leukolens.artifacts import Manifest, atomic_path, write_text
from leukolens.data.manifest import index
from leukolens.data.phantom import phantom
from leukolens.data.pixel_cache import cache_pixels
from leukolens.data.preprocessing import Preprocessing
from leukolens.settings import PhantomSettings

_SUBJECTS = 24


def prepare(work: Path, data: Path | None, cells: int, input_px: int, images: int) -> None:
    """Write everything that is not there yet."""
    root = data or phantom(work, PhantomSettings(cells=cells, subjects=min(_SUBJECTS, cells // 5)))
    manifest = _of_canvas_size(index(root, work / "index"))
    manifest.save(work / MANIFEST_FILE)
    write_text(work / CELLS_FILE, "".join(f"{manifest.root / name}\n" for name in manifest.images["image"]))
    _write_pixels(work, manifest, input_px, images)


def _of_canvas_size(manifest: Manifest) -> Manifest:
    """Leave out what would be cropped or padded: the other contenders only resize."""
    height_px, width_px = manifest.record["canvas_px"]
    fits = (manifest.images["height_px"] == height_px) & (manifest.images["width_px"] == width_px)
    return Manifest(manifest.images[fits].reset_index(drop=True), manifest.record)


def _write_pixels(work: Path, manifest: Manifest, input_px: int, images: int) -> None:
    cells = cache_pixels(manifest, work / "cache", Preprocessing(manifest.canvas_px, input_px)).pixels
    with atomic_path(work / PIXELS_FILE) as temporary:
        shape = (images, input_px, input_px, 3)
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        for row in range(images):
            turn, cell = divmod(row, len(cells))
            pixels[row] = cells[cell] + np.uint8(turn)
        pixels.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare, and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cells", type=int, default=240)
    parser.add_argument("--input-px", type=int, default=224)
    parser.add_argument("--images", type=int, default=2048)
    options = parser.parse_args(arguments)
    prepare(options.work, options.data, options.cells, options.input_px, options.images)
    sys.stdout.write(f"prepared: {options.images} images and their files\n")


if __name__ == "__main__":
    main()

"""A run, a bundle of it and the results of its data: well formed, small, of phantom cells, to be spoilt by others.

In: a folder. Out: Good. Writes: the folder; made once, then read again.
"""

from __future__ import annotations

from pathlib import Path

from hostile_corpus.case import Good

_NETWORK = "timm:test_resnet"


def good_in(folder: Path) -> Good:
    """Name what `make_good` has written."""
    return Good(folder / "run", folder / "bundle", folder / "results")


def make_good(folder: Path) -> Good:
    """Draw cells, train a network of 0.1 million random weights on them for a moment, predict once, export."""
    from leukolens import export, index, phantom, predict, split, train
    from leukolens.settings import ExportSettings, PhantomSettings, PredictSettings, TrainSettings

    good = good_in(folder)
    if (good.bundle / "bundle.json").is_file():
        return good
    cells = folder / "cells"
    if not cells.is_dir():
        phantom(cells, PhantomSettings(cells=60, subjects=12))
    manifest = index(next(cells.glob("phantom*")), good.results)
    splits = split(manifest, good.results)
    settings = TrainSettings(architecture=_NETWORK, weights="none", input_px=32, head_epochs=5, finetune_epochs=0, device="cpu")
    run = train(manifest, splits, good.run, settings, good.results / "cache")
    predict(run, manifest, splits, folder / "predictions", good.results / "cache", PredictSettings(device="cpu"))
    export(run, manifest, splits, good.bundle, ExportSettings(formats=("onnx", "openvino"), cells=16))
    return good

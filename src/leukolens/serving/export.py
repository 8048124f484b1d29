"""`leukolens export`: a finished run in, a bundle with the network in other formats out, each tried on cells of the data.

In: Run, Manifest and its Splits. Out: Bundle. Writes: a new folder (see `bundle.py` and `formats.py`) and in it `export.json`:
for each format how far its answers are from PyTorch's in float32 on validation cells. It is written under another name and
renamed when all is in place: a format that fails, or an interruption, leaves nothing behind.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from leukolens.artifacts import (
    BUNDLE_FILE,
    EXPORT_FILE,
    INT8_FILE,
    LITERT_FILE,
    ONNX_FILE,
    OPENVINO_FILE,
    TRAIN,
    VALIDATION,
    Manifest,
    Record,
    Splits,
    read_json,
    write_json,
)
from leukolens.data.pixel_cache import cache_pixels
from leukolens.errors import SettingsError
from leukolens.models.compute import INT8, ONNX, OPENVINO, Compute, tune_allocator
from leukolens.models.exported import Answering, ExportedEngine, LiteRtEngine, OnnxEngine, OpenVinoFileEngine, Outputs, Pixels
from leukolens.models.inference import EagerEngine, Engine
from leukolens.partials import partial_path
from leukolens.prediction.predict import check_classes, rows_to_score
from leukolens.progress import logger
from leukolens.provenance import hardware
from leukolens.serving.bundle import Bundle, copy_run, seal
from leukolens.serving.formats import require_format, write_int8, write_litert, write_onnx, write_openvino
from leukolens.serving.verify import Judged, differences, require_same, require_small_loss
from leukolens.settings import ExportFormat, ExportSettings
from leukolens.training.features import to_levels
from leukolens.training.head import linear_logits
from leukolens.training.runs import Run

_BATCH = 32
_FLOAT32, _EIGHT_BITS = Compute("cpu", "fp32", OPENVINO), Compute("cpu", INT8, OPENVINO)
_PACKAGES = ("leukolens", "torch", "openvino", "onnx", "onnxscript", "onnxruntime", "litert-torch")


def export(
    run: Run | Path | str,
    manifest: Manifest | Path | str,
    splits: Splits | Path | str,
    out: Path | str,
    settings: ExportSettings | None = None,
) -> Bundle:
    """Make a bundle of a run, and keep of its formats what answers as the run does.

    Args:
        run: a finished Run or its folder.
        manifest: the data it was trained on, or other data of its classes; the images are decoded and compared with it.
        splits: the run's splits, whose validation side each format is tried on. The 8-bit network is calibrated on training
            cells, found by their pixels.
        out: a folder that does not exist yet, or is empty.
        settings: which formats, on how many cells, and what is tolerated.

    Raises:
        SettingsError: `out` is not empty, or a format cannot be written on this machine.
        ExportError: a format does not answer as the run, or the 8-bit network costs too much.
        RunError, ArtifactError, LeakError, SplitError: run, data and splits do not belong together, or are damaged.
    """
    tune_allocator()
    run, settings, out = run if isinstance(run, Run) else Run.load(run), settings or ExportSettings(), Path(out)
    results = manifest if isinstance(manifest, Path | str) else None
    for wished in settings.formats:
        require_format(wished)
    manifest, splits = Manifest.of(manifest), Splits.of(splits)
    check_classes(run, manifest)
    with _new_folder(out) as folder:
        job = _Job(run, manifest, splits, settings, folder)
        copy_run(run, folder, _folder_of(results))
        write_json(folder / EXPORT_FILE, _record(job, _written(job, folder)))
        seal(folder, run)
    return Bundle.load(out)


def summary_lines(bundle: Bundle) -> list[str]:
    """Say what a bundle holds and how its formats did, as text for a terminal."""
    record = read_json(bundle.folder / EXPORT_FILE)
    lines = [f"bundle of {bundle.record['display_name']}, hash {bundle.record['hash']}"]
    rows = {**record["formats"], f"the run itself, {record['run_itself']['inference_precision']}": record["run_itself"]}
    for name, found in rows.items():
        auroc = "" if found["auroc"] is None else f"; AUROC {found['auroc']:.3f}, float32 {found['auroc_float32']:.3f}"
        lines.append(
            f"{name}: {found['changed_decisions']} of {found['cells']} decisions changed, largest difference of a probability "
            f"{found['probability']:.1e}{auroc}"
        )
    return lines


@dataclass(frozen=True)
class _Job:
    """What one export works on; what is computed is computed once."""

    run: Run
    manifest: Manifest
    splits: Splits
    settings: ExportSettings
    scratch: Path
    """Where temporary folders go: what is left of it when the process is killed is found and deleted."""

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Manifest rows of the validation side, or a seeded choice of them."""
        rows = rows_to_score(self.run, self.manifest, self.splits)
        return self._some(rows[rows["side"] == VALIDATION], self.settings.cells)

    @cached_property
    def pixels(self) -> Pixels:
        """Of the cells: uint8 [n, side, side, 3]."""
        return self._prepared(self.cells)

    @cached_property
    def calibration(self) -> Pixels:
        """Of training cells, found by their pixels: uint8 [m, side, side, 3]."""
        seen = self.run.training_images()
        trained = self.manifest.images["pixel_hash"].isin(seen.loc[seen["side"] == TRAIN, "pixel_hash"])
        if not trained.any():
            raise SettingsError(
                "The 8-bit network has nothing to be calibrated on.",
                expected="a manifest with training cells of the run",
                received=f"{len(trained)} images, none of which the run was trained on",
                remedy="pass the manifest that the run was trained on, or leave --format int8 out",
            )
        return self._prepared(self._some(self.manifest.images[trained], self.settings.calibration_images))

    @cached_property
    def judged(self) -> Judged:
        """The run's own rule, and the labels of the cells."""
        positions = [self.manifest.classes.index(label) for label in self.cells["label"]]
        return Judged(self.run.decision(), self.run.outliers(), np.array(positions, dtype=np.int64))

    @cached_property
    def wanted(self) -> Outputs:
        """What PyTorch gives in float32, layer by layer: the network as it was trained."""
        return self.outputs_by(EagerEngine(self.run.classifier(), Compute("cpu", "fp32")))

    @cached_property
    def network(self) -> Answering:
        """The graph that is exported."""
        return Answering(self.run.classifier().cpu(), self.judged.decision.temperature).eval()

    def outputs_by(self, engine: Engine) -> Outputs:
        """Features by an engine, logits and probabilities from them as `predict` has them."""
        starts = range(0, len(self.pixels), _BATCH)
        features = np.concatenate([engine(to_levels(self.pixels[start : start + _BATCH], "cpu")) for start in starts])
        head = self.run.classifier().head
        logits = linear_logits(features, head.weight, head.bias)
        probabilities = self.judged.decision.apply(logits).probabilities.astype(np.float32)
        return Outputs(probabilities, logits, features)

    def said(self) -> Record:
        """What an exported file says of itself."""
        decision = self.judged.decision
        return {
            "classes": list(decision.classes),
            "positive": list(decision.positive),
            "threshold": decision.threshold.value if decision.threshold else None,
            "temperature": decision.temperature,
            "preprocessing": self.run.preprocessing.to_record(),
            "run_hash": self.run.record["run_hash"],
            "synthetic": self.run.record["synthetic"],
            "notice": "Research software, not a medical device.",
        }

    def _some(self, rows: pd.DataFrame, at_most: int) -> pd.DataFrame:
        rows = rows.sort_values("image")
        return rows if len(rows) <= at_most else rows.sample(at_most, random_state=self.settings.seed).sort_values("image")

    def _prepared(self, rows: pd.DataFrame) -> Pixels:
        """Decoded, cropped and resized, each compared with the manifest; of a large data set only these."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            some = Manifest(rows[self.manifest.images.columns].reset_index(drop=True), self.manifest.record)
            return np.array(cache_pixels(some, Path(folder), self.run.preprocessing).pixels)


def _written(job: _Job, folder: Path) -> Record:
    """Write each format, try it, and say how it did."""
    found: Record = {}
    with tempfile.TemporaryDirectory(dir=job.scratch) as work:
        for wished in dict.fromkeys(job.settings.formats):
            found[wished] = _WRITERS[wished](job, folder, Path(work))
            logger.info(
                "%s: %s differs by at most %.2g in probability on %d cells, %d decisions changed",
                job.run.record["display_name"], wished, found[wished]["probability"], found[wished]["cells"],
                found[wished]["changed_decisions"],
            )  # fmt: skip
    return found


def _onnx(job: _Job, folder: Path, work: Path) -> Record:
    write_onnx(job.network, job.run.preprocessing.input_px, job.said(), folder / ONNX_FILE)
    found = _tried(job, OnnxEngine(folder / ONNX_FILE, *_sizes(job)))
    require_same(ONNX, found, job.settings)
    return found


def _int8(job: _Job, folder: Path, work: Path) -> Record:
    source = folder / ONNX_FILE
    if not source.is_file():
        source = work / ONNX_FILE
        write_onnx(job.network, job.run.preprocessing.input_px, job.said(), source)
    write_int8(source, job.calibration, folder / INT8_FILE)
    found = _tried(job, OpenVinoFileEngine(folder / INT8_FILE, _EIGHT_BITS, *_sizes(job)))
    require_small_loss(found, job.settings)
    # What others run it by: each program rounds in its own way.
    elsewhere = _tried(job, OnnxEngine(folder / INT8_FILE, *_sizes(job)))
    require_small_loss(elsewhere, job.settings)
    return {**found, "calibration_images": len(job.calibration), "by_onnxruntime": elsewhere}


def _litert(job: _Job, folder: Path, work: Path) -> Record:
    side_px = job.run.preprocessing.input_px
    write_litert(job.network, side_px, folder / LITERT_FILE)
    found = _tried(job, LiteRtEngine(folder / LITERT_FILE, side_px))
    require_same("litert", found, job.settings)
    return found


def _openvino(job: _Job, folder: Path, work: Path) -> Record:
    write_openvino(job.network, job.run.preprocessing.input_px, job.said(), folder / OPENVINO_FILE)
    found = _tried(job, OpenVinoFileEngine(folder / OPENVINO_FILE, _FLOAT32, *_sizes(job)))
    require_same(OPENVINO, found, job.settings)
    return found


_WRITERS: Mapping[ExportFormat, Callable[[_Job, Path, Path], Record]] = {
    ONNX: _onnx,
    OPENVINO: _openvino,
    INT8: _int8,
    "litert": _litert,
}


def _sizes(job: _Job) -> tuple[int, int]:
    return _BATCH, job.run.preprocessing.input_px


def _tried(job: _Job, engine: ExportedEngine) -> Record:
    """All three outputs of the file itself, as any other program would read them."""
    return differences(engine.outputs(job.pixels), job.wanted, job.judged)


def _record(job: _Job, formats: Record) -> Record:
    """What export.json says."""
    own = job.run.extractor(_BATCH, "cpu")
    settings = job.settings.model_dump(mode="json")
    return {
        "compared_with": "PyTorch in float32, layer by layer",
        "data": {"side": VALIDATION, "synthetic": job.manifest.record["synthetic"], "manifest_hash": job.manifest.content_hash},
        "formats": formats,
        # Not a format: what `predict` does with the run itself on this machine, which may compute in bfloat16.
        "run_itself": {
            "engine": own.compute.engine,
            "inference_precision": own.compute.inference_precision,
            **differences(job.outputs_by(own.ready()), job.wanted, job.judged),
        },
        "settings": settings,
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "hardware": hardware(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _folder_of(results: Path | str | None) -> Path | None:
    if results is None:
        return None
    return Path(results) if Path(results).is_dir() else Path(results).parent


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside `out`; it becomes `out` when the block ends well, and is deleted when not."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(
            f"{out} is not empty.",
            expected="a folder that does not exist yet, or an empty one: a bundle is made once and never changed",
            received=f"a bundle, {BUNDLE_FILE} is in it" if (out / BUNDLE_FILE).is_file() else "something else at that path",
            remedy="choose another --out, or delete it",
        )
    folder = partial_path(out)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        if out.is_dir():
            out.rmdir()
        folder.replace(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""The network in the formats of other programs: ONNX, its 8-bit copy, OpenVINO's and LiteRT's.

In: the whole network as one graph, and what belongs to it. Out: nothing. Writes: `network.onnx`, `network.int8.onnx`,
`network.xml` with `network.bin`, `network.tflite`. Each holds weights and graph, reads uint8 [n, side, side, 3] and gives
probabilities, logits and features (`models/exported.py`). All but LiteRT's say of themselves, under the key `leukolens`, which
classes their columns are, by which threshold they are decided and how their pixels are made, so that a file parted from its
bundle is not used wrongly.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leukolens import extras
from leukolens.artifacts import Record
from leukolens.errors import ExportError, SettingsError
from leukolens.models.exported import INPUT_NAME, OUTPUT_NAMES, Answering, Pixels
from leukolens.models.openvino_graphs import to_openvino
from leukolens.settings import ExportFormat

RECORD_KEY = "leukolens"

_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_ANY_BATCH = -1
# Layers that are computed in 8 bits. Normalisation, head and softmax stay in float: they cost nothing, and the head sees
# features, which outlier scores are computed from too. Concatenations stay as well: they compute nothing, and OpenVINO 2026.4
# ends in a segmentation fault where it compiles a DenseNet whose concatenations are in 8 bits.
_QUANTISED = ("Conv", "Add", "Mul", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool")
_CALIBRATED_AT_ONCE = 16


def require_format(wished: ExportFormat) -> None:
    """Raise SettingsError where a format cannot be written on this machine, with what to do."""
    if wished == "litert" and not extras.is_installed("litert_torch"):
        raise SettingsError(
            "LiteRT files cannot be written here.",
            expected="the package litert-torch, which takes PyTorch below 2.15",
            received=f"PyTorch {torch.__version__} without it",
            remedy="pip install 'leukolens[litert]' in an environment of its own, which takes an older PyTorch; or take onnx",
        )
    for package in _ONNX_PACKAGES if wished in ("onnx", "int8") else ():
        extras.require_package(package, f"The format {wished} needs {package}.", remedy=extras.GET_EXPORT)


def write_onnx(network: Answering, side_px: int, record: Record, path: Path) -> None:
    """Write ONNX in float32, through torch.export.

    The packages of the extra `export` must be there. Raises ExportError where the network has a layer that ONNX has not.
    """
    try:
        model = _onnx_model(network.eval(), side_px)
    except torch.onnx.OnnxExporterError as error:
        raise _unwritable("onnx", error) from error
    _forget_sources(model)
    model.metadata_props.add(key=RECORD_KEY, value=json.dumps(record))
    path.write_bytes(model.SerializeToString())


def write_int8(onnx: Path, calibration: Pixels, path: Path) -> None:
    """Write the 8-bit copy of an ONNX file: weights int8, one scale per channel; activations uint8, one range per tensor.

    The ranges are the extremes over `calibration`, uint8 [n, side, side, 3], which should be training images. QDQ form, so that
    any ONNX program can run it; those that know how compute in 8 bits.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quant_pre_process, quantize_static

    with tempfile.TemporaryDirectory() as folder, _quietly():
        prepared = Path(folder) / onnx.name
        # Folds batch normalisation into the convolutions; symbolic shapes are for networks that loop.
        quant_pre_process(onnx, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            _Calibration(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_exclude=_before_first_convolution(prepared),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def write_openvino(network: Answering, side_px: int, record: Record, path: Path) -> None:
    """Write OpenVINO's intermediate representation in float32: `path`, which ends in .xml, and the .bin beside it.

    Raises ExportError where the network has a layer that OpenVINO has not.
    """
    import openvino

    try:
        model = to_openvino(network.eval(), (_ANY_BATCH, side_px, side_px, 3))
    except RuntimeError as error:
        raise _unwritable("openvino", error) from error
    model.inputs[0].get_tensor().set_names({INPUT_NAME})
    for output, name in zip(model.outputs, OUTPUT_NAMES, strict=True):
        output.get_tensor().set_names({name})
    model.set_rt_info(json.dumps(record), [RECORD_KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def _onnx_model(network: Answering, side_px: int) -> Any:  # noqa: ANN401 - onnx.ModelProto, from an optional package
    pixels = torch.zeros((2, side_px, side_px, 3), dtype=torch.uint8)
    with torch.no_grad(), _quietly():
        program = torch.onnx.export(
            network,
            (pixels,),
            input_names=[INPUT_NAME],
            output_names=list(OUTPUT_NAMES),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise TypeError("torch.onnx.export gave no program, as it does for a file name only")
    return program.model_proto


def _unwritable(name: str, error: Exception) -> ExportError:
    return ExportError(
        f"The network cannot be written in the format {name}; nothing was kept.",
        expected="layers that this format has",
        received=str(error).strip().splitlines()[0],
        remedy=f"leave --format {name} out",
    )


def _before_first_convolution(path: Path) -> list[str]:
    """Names of the layers that bring grey levels to the scale of the weights."""
    import onnx

    nodes = onnx.load(path).graph.node
    first = next((place for place, node in enumerate(nodes) if node.op_type == "Conv"), 0)
    return [node.name for node in nodes[:first]]


def write_litert(network: Answering, side_px: int, path: Path) -> None:
    """Write LiteRT (TensorFlow Lite's format) in float32, for one image at a time; it has no room for a record.

    Its signature reads `pixels` and gives `output_0` to `output_2`: probabilities, logits, features. Raises ExportError where
    the converter cannot follow the network.
    """
    import litert_torch

    pixels = torch.zeros((1, side_px, side_px, 3), dtype=torch.uint8)
    # The converter writes its progress to standard output.
    with torch.no_grad(), _quietly(), redirect_stdout(io.StringIO()):
        try:
            litert_torch.convert(network.eval(), sample_kwargs={INPUT_NAME: pixels}).export(str(path))
        except RuntimeError as error:
            raise _unwritable("litert", error) from error


class _Calibration:
    """What quantisation reads its ranges from: `get_next` gives batches, and None at the end."""

    def __init__(self, pixels: Pixels) -> None:
        starts = range(0, len(pixels), _CALIBRATED_AT_ONCE)
        self.batches: Iterator[NDArray[np.uint8]] = (pixels[start : start + _CALIBRATED_AT_ONCE] for start in starts)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Give the next batch by the name of the graph's input."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT_NAME: np.ascontiguousarray(batch)}


def _forget_sources(model: Any) -> None:  # noqa: ANN401 - onnx.ModelProto, from an optional package
    """Take out where in whose files each layer was programmed: the exporter writes paths of this machine into the graph."""
    for graph in (model.graph, *model.functions):
        del graph.metadata_props[:]
        for part in (*graph.node, *graph.value_info, *getattr(graph, "input", ()), *getattr(graph, "initializer", ())):
            if hasattr(part, "metadata_props"):
                del part.metadata_props[:]
            if getattr(part, "doc_string", ""):
                part.doc_string = ""


@contextmanager
def _quietly() -> Iterator[None]:
    """Hold back what exporters say to their own developers: deprecations inside them, and progress as warnings."""
    root, level = logging.getLogger(), logging.getLogger().level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            root.setLevel(level)

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from leukolens import extras
from leukolens.artifacts import Manifest, read_json
from leukolens.data.pixel_cache import PixelCache
from leukolens.data.preprocessing import read_pixels
from leukolens.errors import ExportError, RunError, SettingsError
from leukolens.models.compute import Compute
from leukolens.models.exported import Answering, OnnxEngine, OpenVinoFileEngine, Outputs
from leukolens.prediction.predict import predict
from leukolens.serving import export as exporting
from leukolens.serving.bundle import Bundle
from leukolens.serving.export import export, summary_lines
from leukolens.serving.formats import write_int8, write_onnx
from leukolens.settings import ExportSettings, PredictSettings
from leukolens.training.runs import Run

FLOAT32 = Compute("cpu", "fp32", "openvino")


def plain_answers(run: Run, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Outputs:
    """Of the network as PyTorch computes it, by none of the export's own code."""
    classifier = run.classifier()
    with torch.inference_mode():
        features = classifier.features(torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2))
        logits = classifier.head(features)
    probabilities = (logits.double() / run.decision_record["temperature"]).softmax(dim=1)
    return Outputs(probabilities.float().numpy(), logits.numpy(), features.numpy())


def engines(bundle: Bundle, batch_size: int = 4) -> dict[str, Any]:
    return {
        "onnx": OnnxEngine(bundle.folder / "network.onnx", batch_size, 32),
        "openvino": OpenVinoFileEngine(bundle.folder / "network.xml", FLOAT32, batch_size, 32),
        "int8": OpenVinoFileEngine(bundle.folder / "network.int8.onnx", Compute("cpu", "int8"), batch_size, 32),
        "int8 by onnxruntime": OnnxEngine(bundle.folder / "network.int8.onnx", batch_size, 32),
    }


# What the files answer


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_file_answers_as_the_network(bundle: Bundle, finetuned_run: Run, pixels: PixelCache, name: str) -> None:
    found, wanted = engines(bundle)[name].outputs(pixels.pixels[:10]), plain_answers(finetuned_run, pixels.pixels[:10])
    for part in ("probabilities", "logits", "features"):
        np.testing.assert_allclose(getattr(found, part), getattr(wanted, part), rtol=1e-4, atol=1e-5)
        assert getattr(found, part).dtype == np.float32


@pytest.mark.parametrize("name", ["int8", "int8 by onnxruntime"])
def test_eight_bit_file_answers_nearly_so(
    bundle: Bundle, finetuned_run: Run, pixels: PixelCache, name: str
) -> None:
    found, wanted = engines(bundle)[name].outputs(pixels.pixels), plain_answers(finetuned_run, pixels.pixels)
    error = np.linalg.norm(found.features - wanted.features) / np.linalg.norm(wanted.features)
    assert 1e-4 < error < 0.5
    # The head is not rounded: its logits are those of the features that the file gives.
    head = finetuned_run.classifier().head
    np.testing.assert_allclose(
        found.logits, found.features @ head.weight.detach().numpy().T + head.bias.detach().numpy(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["onnx", "openvino", "int8", "int8 by onnxruntime"])
def test_a_cells_answer_does_not_depend_on_the_cells_beside_it(bundle: Bundle, pixels: PixelCache, name: str) -> None:
    engine, cells = engines(bundle)[name], pixels.pixels[:5]
    together = engine.outputs(cells)
    alone = [engine.outputs(cells[[row]]) for row in range(5)]
    for part in ("probabilities", "logits", "features"):
        np.testing.assert_array_equal(np.concatenate([getattr(each, part) for each in alone]), getattr(together, part))


class _Densely(torch.nn.Module):
    """Two layers whose outputs are concatenated, as in a DenseNet, and what `Answering` asks of a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1)
        self.head = torch.nn.Linear(16, 2)

    def features(self, levels: torch.Tensor) -> torch.Tensor:
        before = torch.relu(self.first(levels.float() / 255))
        return torch.cat([before, torch.relu(self.second(before))], dim=1).mean(dim=(2, 3))


def test_concatenations_stay_in_float(tmp_path: Path) -> None:
    """OpenVINO 2026.4 ends in a segmentation fault where it compiles DenseNet-121 with these in 8 bits."""
    import onnx

    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    write_onnx(Answering(_Densely(), 1.0), 32, {}, tmp_path / "network.onnx")  # type: ignore[arg-type]
    write_int8(tmp_path / "network.onnx", pixels, tmp_path / "int8.onnx")
    graph = onnx.load(tmp_path / "int8.onnx").graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    readers = {name: node.op_type for node in graph.node for name in node.input}
    assert "QuantizeLinear" in made_by.values()
    concatenations = [node for node in graph.node if node.op_type == "Concat"]
    assert concatenations
    assert all(readers[name] != "QuantizeLinear" for node in concatenations for name in node.output)


def test_plain_onnx_program_reads_any_number_of_uint8_images(bundle: Bundle, pixels: PixelCache) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(bundle.folder / "network.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("pixels", "tensor(uint8)", [32, 32, 3])
    assert [each.name for each in session.get_outputs()] == ["probabilities", "logits", "features"]
    for count in (1, 3):
        probabilities = session.run(["probabilities"], {"pixels": np.array(pixels.pixels[:count])})[0]
        assert probabilities.shape == (count, 2)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_onnx_file_says_what_it_is(bundle: Bundle, finetuned_run: Run) -> None:
    import onnxruntime

    for name in ("network.onnx", "network.int8.onnx"):
        session = onnxruntime.InferenceSession(bundle.folder / name, providers=["CPUExecutionProvider"])
        said = json.loads(session.get_modelmeta().custom_metadata_map["leukolens"])
        assert said["classes"] == ["HEM", "ALL"]
        assert said["threshold"] == finetuned_run.decision_record["threshold"]["value"]
        assert said["preprocessing"] == finetuned_run.record["preprocessing"]
        assert said["notice"] == "Research software, not a medical device."


# What export.json says


def test_record_compares_each_format_with_float32(bundle: Bundle, cohort: Any) -> None:
    record = read_json(bundle.folder / "export.json")
    validation = int((cohort.splits.of_fold(0) == "validation").sum())
    assert list(record["formats"]) == ["onnx", "openvino", "int8"]
    for name, found in record["formats"].items():
        assert found["cells"] == validation
        assert found["probability"] < (1e-3 if name != "int8" else 1)
    assert record["formats"]["int8"]["by_onnxruntime"]["cells"] == validation
    assert record["formats"]["int8"]["calibration_images"] == int((cohort.splits.of_fold(0) == "train").sum())
    assert record["run_itself"]["engine"] == "torch"
    assert record["data"] == {"side": "validation", "synthetic": False, "manifest_hash": cohort.manifest.content_hash}
    assert record["settings"]["accept_loss"] is True
    assert {"torch", "onnx", "onnxruntime"} <= set(record["versions"])


def test_summary_has_a_line_for_each_format(bundle: Bundle) -> None:
    lines = summary_lines(bundle)
    assert lines[0] == f"bundle of test_efficientnet, hash {bundle.record['hash']}"
    assert [line.split(":")[0] for line in lines[1:4]] == ["onnx", "openvino", "int8"]


def test_so_many_cells_as_were_asked_for(finetuned_run: Run, cohort: Any, tmp_path: Path) -> None:
    settings = ExportSettings(formats=("openvino",), cells=3)
    made = export(finetuned_run, cohort.manifest, cohort.splits, tmp_path / "b", settings)
    assert read_json(made.folder / "export.json")["formats"]["openvino"]["cells"] == 3
    assert list(made.engines) == ["openvino"]


def test_bundle_of_a_bundle_is_the_same(bundle: Bundle, cohort: Any, tmp_path: Path) -> None:
    settings = ExportSettings(formats=("openvino",))
    again = export(bundle.folder, cohort.manifest, cohort.splits, tmp_path / "b", settings)
    for name in ("run.json", "training_images.csv", "model_card.md", "weights.safetensors"):
        assert (again.folder / name).read_bytes() == (bundle.folder / name).read_bytes(), name


@pytest.mark.slow
def test_litert_answers_as_the_network(finetuned_run: Run, cohort: Any, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="litert-torch is not installed: it takes PyTorch below 2.15")
    made = export(finetuned_run, cohort.manifest, cohort.splits, tmp_path / "b", ExportSettings(formats=("litert",)))
    assert read_json(made.folder / "export.json")["formats"]["litert"]["probability"] < 1e-4
    assert "network.tflite" in made.record["files"]
    assert made.engines == {}


# What fails leaves nothing behind


def test_network_that_answers_otherwise_is_not_kept(
    finetuned_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = exporting.write_openvino

    def wrong(network: Any, *others: Any) -> None:
        with torch.no_grad():
            network.classifier.head.bias[0] += 0.5
        write(network, *others)

    monkeypatch.setattr(exporting, "write_openvino", wrong)
    with pytest.raises(ExportError, match="The network in the format openvino does not answer as the one it was made from"):
        export(finetuned_run, cohort.manifest, cohort.splits, tmp_path / "b", ExportSettings(formats=("openvino",)))
    assert list(tmp_path.iterdir()) == []


def test_eight_bits_that_cost_too_much_are_refused(
    finetuned_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lossy = {"probability": 0.4, "changed_decisions": 5, "changed_outliers": 0, "cells": 10, "auroc": 0.6, "auroc_float32": 0.9}
    monkeypatch.setattr(exporting, "differences", lambda *_: lossy)
    with pytest.raises(ExportError, match="costs more accuracy"):
        export(finetuned_run, cohort.manifest, cohort.splits, tmp_path / "b", ExportSettings(formats=("int8",)))
    assert list(tmp_path.iterdir()) == []


def test_interruption_leaves_nothing(
    finetuned_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "write_openvino", stop)
    with pytest.raises(KeyboardInterrupt):
        export(finetuned_run, cohort.manifest, cohort.splits, tmp_path / "b", ExportSettings(formats=("openvino",)))
    assert list(tmp_path.iterdir()) == []


def test_folder_with_something_in_it_is_left_alone(bundle: Bundle, finetuned_run: Run, cohort: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for out, received in ((bundle.folder, "a bundle, bundle.json is in it"), (tmp_path, "something else at that path")):
        with pytest.raises(SettingsError, match="is not empty") as caught:
            export(finetuned_run, cohort.manifest, cohort.splits, out)
        assert caught.value.received == received
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_data_of_other_classes_is_refused(finetuned_run: Run, cohort: Any, tmp_path: Path) -> None:
    other = Manifest(cohort.manifest.images, {**cohort.manifest.record, "classes": ["A", "B"]})
    with pytest.raises(RunError, match="was trained on other classes"):
        export(finetuned_run, other, cohort.splits, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_litert_says_what_it_would_need(
    finetuned_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda name: name != "litert_torch")
    with pytest.raises(SettingsError) as caught:
        export(finetuned_run, cohort.manifest, cohort.splits, tmp_path / "b", ExportSettings(formats=("onnx", "litert")))
    assert str(caught.value) == (
        "LiteRT files cannot be written here.\n"
        "  expected: the package litert-torch, which takes PyTorch below 2.15\n"
        f"  received: PyTorch {torch.__version__} without it\n"
        "  remedy:   pip install 'leukolens[litert]' in an environment of its own, which takes an older PyTorch; or take onnx"
    )
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_named_with_its_command(
    finetuned_run: Run, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda name: False)
    with pytest.raises(SettingsError) as caught:
        export(finetuned_run, cohort.manifest, cohort.splits, tmp_path / "b", ExportSettings(formats=("onnx",)))
    assert str(caught.value) == (
        "The format onnx needs onnx.\n"
        "  expected: the package onnx\n"
        "  received: a Python without it\n"
        "  remedy:   pip install 'leukolens[export]', or choose another one"
    )


# predict --engine


@pytest.mark.parametrize(
    ("engine", "precision"), [("torch", "bf16|fp32"), ("openvino", "bf16|fp32"), ("onnx", "fp32"), ("int8", "int8")]
)
def test_every_engine_gives_the_same_rows_and_says_its_name(
    bundle: Bundle, cohort: Any, tmp_path: Path, engine: Any, precision: str
) -> None:
    settings = PredictSettings(engine=engine)
    plain = predict(bundle.folder, cohort.manifest, cohort.splits, tmp_path / "torch", cohort.cache,
                    PredictSettings(engine="torch"))  # fmt: skip
    found = predict(bundle.folder, cohort.manifest, cohort.splits, tmp_path / "found", cohort.cache, settings)
    assert found.table["image"].tolist() == plain.table["image"].tolist()
    assert list(found.table.columns) == list(plain.table.columns)
    assert found.record["engine"] == engine
    assert found.record["inference_precision"] in precision.split("|")


def test_onnx_predictions_are_the_probabilities_of_the_graph(
    bundle: Bundle, cohort: Any, pixels: PixelCache, tmp_path: Path
) -> None:
    table = predict(bundle.folder, cohort.manifest, cohort.splits, tmp_path, cohort.cache, PredictSettings(engine="onnx")).table
    images = list(table["image"])
    graph = engines(bundle)["onnx"].outputs(pixels.pixels[pixels.rows_of(images)])
    np.testing.assert_allclose(table[["score_HEM", "score_ALL"]], graph.probabilities, atol=1e-6)


def test_from_the_image_file_on_another_program_decides_as_predict(bundle: Bundle, cohort: Any, tmp_path: Path) -> None:
    """As docs/export.md tells whoever has ONNX Runtime: our crop and resize, and nothing else of ours."""
    import onnxruntime

    table = predict(bundle.folder, cohort.manifest, cohort.splits, tmp_path, cohort.cache, PredictSettings(engine="onnx")).table
    session = onnxruntime.InferenceSession(bundle.folder / "network.onnx", providers=["CPUExecutionProvider"])
    said = json.loads(session.get_modelmeta().custom_metadata_map["leukolens"])
    preprocessing = Run.load(bundle.folder).preprocessing
    for row in table.head(6).itertuples():
        pixels = preprocessing.apply(read_pixels(cohort.cells / row.image, max_pixels=25_000_000).pixels)
        (probabilities,) = session.run(["probabilities"], {"pixels": pixels[None]})
        positive = said["classes"].index(said["positive"][0])
        assert probabilities[0, positive] == pytest.approx(row.y_score, abs=1e-5)
        called = positive if probabilities[0, positive] >= said["threshold"] else 1 - positive
        assert said["classes"][called] == row.y_pred


def test_run_has_no_network_for_the_engine(finetuned_run: Run, cohort: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        predict(finetuned_run, cohort.manifest, cohort.splits, tmp_path, cohort.cache, PredictSettings(engine="int8"))
    assert str(caught.value) == (
        "There is no network for the engine int8 here.\n"
        "  expected: a bundle with the format int8\n"
        "  received: a run, or a bundle without exported networks\n"
        "  remedy:   `leukolens export RUN --manifest RESULTS --format int8 --out BUNDLE` makes it; or take another engine"
    )


def test_features_of_two_engines_have_two_names(bundle: Bundle) -> None:
    keys = {bundle.run.extractor(32, "cpu", engine).key() for engine in ("torch", "openvino", "onnx", "int8")}
    assert len(keys) == 4


def test_features_of_two_exports_have_two_names(bundle: Bundle, tmp_path: Path) -> None:
    extractor = bundle.run.extractor(32, "cpu", "onnx")
    other = replace(extractor, network=type(extractor.network)(bundle.folder / "network.int8.onnx"))
    assert extractor.key() != other.key()

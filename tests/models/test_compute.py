from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest
import torch

from leukolens import extras
from leukolens.errors import SettingsError
from leukolens.models import compute
from leukolens.models.architectures import find_architecture
from leukolens.models.compute import Compute, choose_compute, choose_engine, tune_allocator
from leukolens.settings import EngineChoice, TrainSettings

RESNET = find_architecture("resnet50")


@pytest.fixture
def only_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(compute, "_cpu_has_bf16", lambda: True)


@pytest.mark.usefixtures("only_a_processor")
@pytest.mark.parametrize(
    ("name", "training", "asked", "engine"),
    [
        ("resnet50", "bf16", "bf16", "openvino"),
        ("vgg16", "bf16", "bf16", "openvino"),
        ("efficientnet_b0", "fp32", "bf16", "openvino"),
        ("timm:test_resnet", "fp32", "fp32", "torch"),
    ],
)
def test_precision_and_engine_follow_what_pays_on_a_processor(
    name: str, training: str, asked: str, engine: str
) -> None:
    chosen = choose_compute(find_architecture(name), TrainSettings())
    assert (chosen.device, chosen.precision, chosen.inference_precision) == ("cpu", training, asked)
    assert chosen.engine == engine


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0"])
def test_processor_without_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(compute, "_cpu_has_bf16", lambda: False)
    assert choose_compute(find_architecture(name), TrainSettings(device="cpu")) == Compute("cpu", "fp32", "openvino")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_precision_that_is_asked_for_is_kept_in_training_and_after(precision: str) -> None:
    settings = TrainSettings.model_validate({"device": "cpu", "precision": precision})
    chosen = choose_compute(find_architecture("efficientnet_b0"), settings)
    assert chosen == Compute("cpu", precision, "openvino")
    assert chosen.inference_precision == precision


@pytest.mark.parametrize("has_bf16", [True, False])
def test_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch, has_bf16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bf16)
    wanted = Compute("cuda", "bf16" if has_bf16 else "fp32")
    assert choose_compute(find_architecture("efficientnet_b0"), TrainSettings()) == wanted


@pytest.mark.usefixtures("only_a_processor")
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_device_that_is_not_there_raises(device: str) -> None:
    with pytest.raises(SettingsError) as caught:
        choose_compute(RESNET, TrainSettings.model_validate({"device": device}))
    assert str(caught.value) == (
        f"The device {device} is not to be had on this machine.\n"
        "  expected: one of cpu, or auto\n"
        f"  received: {device}\n"
        "  remedy:   leave --device at auto, or install a PyTorch build and driver for that device"
    )


def test_autocast_computes_products_in_bfloat16_only_where_asked() -> None:
    one = torch.ones(2, 2)
    with Compute("cpu", "bf16").inference_autocast():
        assert (one @ one).dtype == torch.bfloat16
    with Compute("cpu", "fp32").inference_autocast():
        assert (one @ one).dtype == torch.float32


PROCESSOR = Compute("cpu", "fp32", "torch")


@pytest.mark.parametrize(
    ("before", "exported", "engine"),
    [
        (Compute("cpu", "bf16", "openvino"), (), "openvino"),
        (Compute("cpu", "bf16", "openvino"), ("onnx", "int8"), "openvino"),
        (PROCESSOR, (), "torch"),
        (PROCESSOR, ("int8",), "torch"),
        (PROCESSOR, ("int8", "onnx"), "onnx"),
        (PROCESSOR, ("onnx", "openvino", "int8"), "openvino"),
        (Compute("cpu", "bf16", "torch"), ("onnx",), "torch"),
        (Compute("cuda", "bf16"), ("onnx", "openvino"), "torch"),
    ],
)
def test_engine_left_to_the_program_is_the_fastest_that_keeps_the_precision(
    monkeypatch: pytest.MonkeyPatch, before: Compute, exported: tuple[str, ...], engine: str
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda name: True)
    chosen = choose_engine(before, "auto", exported)
    assert chosen.engine == engine
    assert chosen.inference_precision == before.inference_precision


def test_engine_left_to_the_program_is_one_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda name: False)
    assert choose_engine(PROCESSOR, "auto", ("onnx",)).engine == "torch"


@pytest.mark.parametrize(("engine", "asked"), [("torch", "bf16"), ("openvino", "bf16"), ("onnx", "fp32"), ("int8", "int8")])
def test_engine_that_is_named_computes_in_its_own_precision(
    monkeypatch: pytest.MonkeyPatch, engine: EngineChoice, asked: str
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda name: True)
    chosen = choose_engine(Compute("cpu", "bf16", "openvino"), engine, ("onnx", "openvino", "int8"))
    assert (chosen.engine, chosen.inference_precision, chosen.precision) == (engine, asked, "bf16")


@pytest.mark.parametrize("engine", ["openvino", "onnx", "int8"])
def test_engine_of_processors_is_refused_on_a_gpu(engine: EngineChoice) -> None:
    with pytest.raises(SettingsError) as caught:
        choose_engine(Compute("cuda", "bf16"), engine, ("onnx", "openvino", "int8"))
    assert str(caught.value) == (
        f"The engine {engine} computes on a processor only.\n"
        "  expected: --device cpu or auto\n"
        "  received: --device cuda\n"
        "  remedy:   leave --device out, or take --engine torch"
    )


def test_engine_without_its_network_says_what_the_bundle_has() -> None:
    with pytest.raises(SettingsError) as caught:
        choose_engine(PROCESSOR, "int8", ("onnx", "openvino"))
    assert caught.value.received == "one with onnx, openvino"


def test_engine_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda name: False)
    with pytest.raises(SettingsError) as caught:
        choose_engine(PROCESSOR, "onnx", ("onnx",))
    assert caught.value.what == "The engine onnx needs onnxruntime."
    assert caught.value.remedy.startswith("pip install 'leukolens[export]'")


def test_allocator_is_told_to_keep_memory_on_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda parameter, value: calls.append((parameter, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(sys, "platform", "darwin")
    tune_allocator.__wrapped__()
    assert calls == []
    monkeypatch.setattr(sys, "platform", "linux")
    tune_allocator.__wrapped__()
    # glibc's numbers of M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD.
    assert calls == [(-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20)]
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    tune_allocator.__wrapped__()
    assert len(calls) == 3

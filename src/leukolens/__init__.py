"""leukolens: train, compare and honestly evaluate image classifiers of leukemia cells.

Research software, not a medical device. Every verb of the command line is a function of the same name here; each takes
and returns paths or the objects listed below, and none is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from leukolens.telemetry import forbid_reports

if TYPE_CHECKING:
    from leukolens.artifacts import Manifest, Predictions, Splits
    from leukolens.data.manifest import index
    from leukolens.data.phantom import phantom
    from leukolens.data.splits import split
    from leukolens.diagnosis.doctor import Diagnosis, doctor
    from leukolens.errors import LeukolensError
    from leukolens.evaluation.evaluate import evaluate
    from leukolens.explanation.explain import Explanation, explain
    from leukolens.explanation.explain_inputs import InputsExplanation, explain_inputs
    from leukolens.explanation.loose import Explainer, PictureMap, explain_picture
    from leukolens.fetching import fetch
    from leukolens.pipeline import Comparison, compare, crossval
    from leukolens.prediction.predict import predict
    from leukolens.prediction.stream import ScoredInputs, predict_inputs
    from leukolens.reporting.html import report
    from leukolens.serving.bundle import Bundle
    from leukolens.serving.export import export
    from leukolens.serving.serve import serve
    from leukolens.settings import (
        CompareSettings,
        CrossvalSettings,
        DecisionSettings,
        EvaluateSettings,
        ExplainSettings,
        ExportSettings,
        IndexSettings,
        PhantomSettings,
        PredictSettings,
        ServeSettings,
        SplitSettings,
        TrainSettings,
    )
    from leukolens.training.runs import Run
    from leukolens.training.train import train

__version__ = "0.1.0"

# Here and nowhere else: whatever imports a library that reports its use has imported this package before.
forbid_reports()

_HOME = {
    "leukolens.artifacts": ("Manifest", "Predictions", "Splits"),
    "leukolens.data.manifest": ("index",),
    "leukolens.data.phantom": ("phantom",),
    "leukolens.data.splits": ("split",),
    "leukolens.diagnosis.doctor": ("Diagnosis", "doctor"),
    "leukolens.errors": ("LeukolensError",),
    "leukolens.evaluation.evaluate": ("evaluate",),
    "leukolens.explanation.explain": ("Explanation", "explain"),
    "leukolens.explanation.explain_inputs": ("InputsExplanation", "explain_inputs"),
    "leukolens.explanation.loose": ("Explainer", "PictureMap", "explain_picture"),
    "leukolens.fetching": ("fetch",),
    "leukolens.pipeline": ("Comparison", "compare", "crossval"),
    "leukolens.prediction.predict": ("predict",),
    "leukolens.prediction.stream": ("ScoredInputs", "predict_inputs"),
    "leukolens.reporting.html": ("report",),
    "leukolens.serving.bundle": ("Bundle",),
    "leukolens.serving.export": ("export",),
    "leukolens.serving.serve": ("serve",),
    "leukolens.settings": (
        "CompareSettings",
        "CrossvalSettings",
        "DecisionSettings",
        "EvaluateSettings",
        "ExplainSettings",
        "ExportSettings",
        "IndexSettings",
        "PhantomSettings",
        "PredictSettings",
        "ServeSettings",
        "SplitSettings",
        "TrainSettings",
    ),
    "leukolens.training.runs": ("Run",),
    "leukolens.training.train": ("train",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Bundle",
    "CompareSettings",
    "Comparison",
    "CrossvalSettings",
    "DecisionSettings",
    "Diagnosis",
    "EvaluateSettings",
    "ExplainSettings",
    "Explainer",
    "Explanation",
    "ExportSettings",
    "IndexSettings",
    "InputsExplanation",
    "LeukolensError",
    "Manifest",
    "PhantomSettings",
    "PictureMap",
    "PredictSettings",
    "Predictions",
    "Run",
    "ScoredInputs",
    "ServeSettings",
    "SplitSettings",
    "Splits",
    "TrainSettings",
    "compare",
    "crossval",
    "doctor",
    "evaluate",
    "explain",
    "explain_inputs",
    "explain_picture",
    "export",
    "fetch",
    "index",
    "phantom",
    "predict",
    "predict_inputs",
    "report",
    "serve",
    "split",
    "train",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - functions and classes alike
    """Import a public name when it is first used: `import leukolens` costs milliseconds, PyTorch seconds."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'leukolens' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)

"""Keep libraries from reporting their use to their makers: nothing leaves this machine unless a verb is asked to fetch it.

In: nothing. Out: nothing. Writes: nothing but this process's environment, which its children inherit.

Found by watching what `leukolens predict` does (benchmarks/hostile.py): `import openvino` 2026.4 writes an identifier into
the home folder and sends an event to www.google-analytics.com from a process of its own; `import onnxruntime` 1.32 writes one
and keeps events for mobile.events.data.microsoft.com; Ray and the hub of pretrained weights count their users. Decision 0027.
"""

from __future__ import annotations

import os
import sys

_SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
# OpenVINO has no switch but a file in the home folder of each user; it does without this package where it is not installed.
_OPENVINO_REPORTS_BY = "openvino_telemetry"


def forbid_reports() -> None:
    """Set the switches that are not set yet; call it before any of these libraries is imported."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    # None in place of a module: to import it fails as if it were not there.
    sys.modules.setdefault(_OPENVINO_REPORTS_BY, None)  # type: ignore[arg-type]

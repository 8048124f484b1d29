"""The verb `report`: a folder of results in, one self-contained HTML page out.

In: RESULTS as `leukolens compare` leaves it (see `results`). Out: the path of the page. Writes: RESULTS/report.html, which
loads nothing from elsewhere, needs no JavaScript, reads on a telephone and prints on A4; and, where what the split by image
adds was measured, that figure alone as RESULTS/leak.png.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from leukolens.artifacts import METRICS_FILE, REPORT_FILE, write_text
from leukolens.reporting import wording
from leukolens.reporting.figures_statistics import LEAK_PICTURE_FILE, write_leak
from leukolens.reporting.results import read_results
from leukolens.reporting.sections import network_colours, page

TEMPLATE = "report.html.j2"
_WRITTEN = (wording.percent, wording.decimal, wording.small, wording.one_digit, wording.two_digits, wording.difference,
            wording.p_value, wording.percent_interval, wording.decimal_interval, wording.difference_interval, wording.count,
            wording.millions, wording.rate, wording.duration, wording.phase, wording.sentence, wording.two_lines)  # fmt: skip


def report(results: Path | str) -> Path:
    """Write RESULTS/report.html.

    Args:
        results: folder with comparison.json, or any folder that holds metrics.json somewhere below, or in itself; or a
            metrics.json.

    Returns:
        Path of the page. Pieces that are absent are named on it.

    Raises:
        ArtifactError: the folder holds no evaluated model, a file in it is damaged, or an older leukolens evaluated it.
    """
    path = Path(results)
    read = read_results(path.parent if path.name == METRICS_FILE else path)
    text = _environment().get_template(TEMPLATE).render(page(read))
    path = read.folder / REPORT_FILE
    write_text(path, text)
    if read.leak is not None:
        write_leak(read.leak, network_colours(read), read.folder / LEAK_PICTURE_FILE)
    return path


def _environment() -> Environment:
    # Subject ids, class names and paths are whatever the user's files are called: all of it is escaped.
    environment = Environment(
        loader=PackageLoader("leukolens.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({write.__name__: write for write in _WRITTEN}, text=str)
    return environment

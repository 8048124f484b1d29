"""Functions of single modules of the page, called in it and compared with what they repeat of the Python side."""

from __future__ import annotations

import io
import random
import unicodedata
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pytest

from browser import Visit, visit
from leukolens.prediction.scores_file import safe_text


@pytest.fixture(scope="module")
def opened(browser: Any, page_address: str) -> Iterator[Visit]:
    with visit(browser, page_address) as opened:
        opened.page.locator("#drop").wait_for()
        yield opened


def test_text_in_csv_is_escaped_as_predict_does(opened: Visit) -> None:
    draw = random.Random(0)
    letters = [chr(code) for code in range(0x3000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    letters += [*"=+-@'＝＋－＠\\\"\n\r\t,", "\u2028", "\ufeff", "\U0001f600", "\U000e0001", "\ue000", "\u3000", "\u200d"]
    texts = ["".join(draw.choices(letters, k=draw.randint(0, 12))) for _ in range(3000)] + letters
    shown = opened.page.evaluate("texts => import('/static/csv.js').then(part => texts.map(part.safeText))", texts)
    assert shown == [safe_text(text) for text in texts]


def test_numbers_in_csv_are_written_as_predict_does(opened: Visit) -> None:
    draw = random.Random(1)
    numbers = [draw.random() * 10 ** draw.randint(-12, 12) for _ in range(2000)] + [
        0.0,
        1.0,
        1e-5,
        1e-7,
        1e21,
        1e10,
        5e-324,
        123.0,
    ]
    buffer = io.BytesIO()
    pc.write_csv(pa.table({"score": numbers}), buffer)
    asked = "rows => import('/static/csv.js').then(part => part.scoresCsv(rows, []))"
    lines = opened.page.evaluate(asked, [{"score": number} for number in numbers]).splitlines()[1:]
    assert [line.split(",")[2] for line in lines] == buffer.getvalue().decode().splitlines()[1:]


def test_files_are_cut_into_requests_within_the_limits(opened: Visit) -> None:
    cut = """([sizes, limits]) => import('/static/uploads.js').then(({ cut }) => {
      const { batches, tooLarge } = cut(sizes.map(([size, archive]) => ({ file: { size }, name: "n", archive })), limits);
      return [batches.map((batch) => batch.files.map(({ file }) => file.size)), tooLarge.map(({ file }) => file.size)];
    })"""
    limits = {"max_files": 2, "max_request_bytes": 3000, "max_file_bytes": 2000}
    sizes = [[10, False], [20, False], [30, False], [40, True], [50, False], [2400, True], [2300, False], [2990, True]]
    # 2,300 bytes are too many for a picture, and with 521 for headers and name 2,990 for any request.
    assert opened.page.evaluate(cut, [sizes, limits]) == [[[10, 20], [30], [40], [50], [2400]], [2300, 2990]]
    assert opened.page.evaluate(cut, [[[1500, False], [1500, False]], limits])[0] == [[1500], [1500]]


def test_percentages_never_claim_certainty(opened: Visit) -> None:
    asked = "values => import('/static/wording.js').then(part => values.map((value) => part.percent(value)))"
    shown = opened.page.evaluate(asked, [0, 0.0001, 0.0005, 0.5, 0.99949, 0.9999, 1, None])
    assert shown == [
        text.replace(" ", "\u202f") for text in ("0.0 %", "<0.1 %", "0.1 %", "50.0 %", "99.9 %", ">99.9 %", "100.0 %", "–")
    ]


def test_meaning_of_probabilities(opened: Visit) -> None:
    asked = "values => import('/static/wording.js').then(part => values.map((value) => part.meaning(value, 'ALL')))"
    shown = opened.page.evaluate(asked, [0.9, 0.899, 0.66, 0.33, 0.32, 0.1, 0.09, 0])
    words = ["very likely", *["likely"] * 2, "as likely as not", *["unlikely"] * 2, *["very unlikely"] * 2]
    assert shown == [f"{each} ALL" for each in words]


def test_of_folders_only_images_are_taken_and_the_rest_counted(opened: Visit) -> None:
    names = ["b/2.png", "b/.hidden.png", "a/1.BMP", "a/notes.txt", "__MACOSX/x.png", "c.zip"]
    asked = "names => import('/static/intake.js').then(({ wanted }) => wanted(names.map((name) => ({ name }))))"
    taken = opened.page.evaluate(asked, names)
    assert ([each["name"] for each in taken["files"]], taken["skipped"]) == (["a/1.BMP", "b/2.png", "c.zip"], 3)

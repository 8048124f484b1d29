"""What the service answers where nothing goes wrong, and its description of itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cohort import draw_cell, write_image
from leukolens.artifacts import read_json, write_json
from leukolens.prediction.scores_file import scores_schema
from leukolens.serving.service import pages
from leukolens.settings import ServeSettings, TrainSettings
from leukolens.training.runs import Run
from leukolens.training.train import train
from service_client import Running, running

SCORES = ("input", "status", "error")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    (folder / "report.html").write_text("<!doctype html><title>A report</title>", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def server(head_run: Run, finetuned_run: Run, report: Path) -> Iterator[Running]:
    models = [f"first={head_run.folder}", f"second={finetuned_run.folder}"]
    with running(models, results=report, limits={"max_files": 50}) as started:
        yield started


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("cell") / "cell.png"
    write_image(path, draw_cell(1))
    return path.read_bytes()


def test_models_are_told_with_what_validation_showed_of_them(server: Running, head_run: Run) -> None:
    told = server.ask("GET", "/v1/models").json
    assert [model["name"] for model in told["models"]] == ["first", "second"]
    assert told["limits"] == {"max_files": 50, "max_request_bytes": 1 << 28, "max_file_bytes": 1 << 28,
                              "max_pixels": 25_000_000, "timeout_seconds": 300}  # fmt: skip
    assert told["results"] is True
    assert "not a medical device" in told["notice"]
    model, decision = told["models"][0], head_run.decision()
    assert (model["classes"], model["positive"], model["positive_name"]) == (["HEM", "ALL"], ["ALL"], "ALL")
    assert model["threshold"] == decision.threshold.value  # type: ignore[union-attr]
    assert (model["temperature"], model["miscoverage"]) == (decision.temperature, 0.1)
    assert (model["run_hash"], model["engine"]) == (head_run.record["run_hash"], "torch")
    assert model["threshold"] in [point["threshold"] for point in model["operating_points"]]
    assert model["validation_positives"] + model["validation_negatives"] == model["validation_images"]
    # The layer of a network outside the table is not known.
    assert model["explain"] is False


def test_rows_have_the_columns_of_the_table_in_their_order(server: Running, cell: bytes) -> None:
    told = server.post("/v1/predict", [("cell.png", cell), ("bad.png", b"none")]).json
    assert list(told) == ["model", "results", "counts", "request_id"]
    assert [list(row) for row in told["results"]] == [["index", *scores_schema(["HEM", "ALL"]).names]] * 2
    assert [tuple(row[name] for name in SCORES) for row in told["results"]] == [
        ("cell.png", "scored", None), ("bad.png", "failed", "not_an_image")]  # fmt: skip
    assert told["model"]["name"] == "first"


def test_the_model_that_is_named_answers(server: Running, cell: bytes) -> None:
    first, second = (server.post(f"/v1/predict?model={name}", [("c", cell)]).json for name in ("first", "second"))
    assert (first["model"]["name"], second["model"]["name"]) == ("first", "second")
    assert first["results"][0]["score"] != second["results"][0]["score"]
    assert first["results"] == server.post("/v1/predict", [("c", cell)]).json["results"]


def test_lines_say_the_same_as_the_whole_answer(server: Running, cell: bytes) -> None:
    files = [(f"{number}.png", cell) for number in range(40)] + [("bad", b"x")]
    whole, answer = server.post("/v1/predict", files).json, server.post("/v1/predict", files, Accept="application/x-ndjson")
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = answer.lines
    assert lines[0] == {"model": whole["model"]}
    assert [line["row"] for line in lines[1:-1]] == whole["results"]
    assert lines[-1] == {"counts": whole["counts"], "request_id": answer.headers["x-request-id"]}


@pytest.mark.parametrize("name", ["=cmd()|x.png", "a\u202eb.png", "<img src=x onerror=alert(1)>", "ünï.png", "a b;c.png"])
def test_names_come_back_as_they_were_sent(server: Running, name: str) -> None:
    assert server.post("/v1/predict", [(name, b"x")]).json["results"][0]["input"] == name


def test_a_name_that_is_no_utf_8_is_escaped(server: Running) -> None:
    body = b'--B\r\nContent-Disposition: form-data; name="files"; filename="\xff.png"\r\n\r\nx\r\n--B--\r\n'
    answer = server.ask("POST", "/v1/predict", body, {"Content-Type": "multipart/form-data; boundary=B"})
    assert answer.json["results"][0]["input"] == "\\xff.png"


def test_a_files_kind_is_told_by_its_content(server: Running, cell: bytes) -> None:
    assert server.post("/v1/predict", [("cell.zip", cell)]).json["results"][0]["status"] == "scored"


def test_summary_is_that_of_the_models_threshold(server: Running) -> None:
    asked = {"probabilities": [0.0, 1.0, 1.0, 1.0], "refused": 2, "failed": 1}
    told = server.ask("POST", "/v1/summary", json.dumps(asked), {"Content-Type": "application/json"}).json
    model = server.ask("GET", "/v1/models").json["models"][0]
    assert (told["answered"], told["positive"], told["share"]) == (4, 3, 0.75)
    assert told["threshold"] == model["threshold"]
    # Wilson's for 3 of 4, as any table has it.
    assert told["interval"] == pytest.approx([0.3006, 0.9544], abs=1e-4)
    point = next(point for point in model["operating_points"] if point["threshold"] == model["threshold"])
    assert (told["sensitivity"], told["specificity"]) == (point["sensitivity"], point["specificity"])
    assert "3 further cells" in " ".join(told["notes"])


def test_summary_of_another_threshold_and_of_no_cell(server: Running) -> None:
    ask = lambda asked: server.ask("POST", "/v1/summary", json.dumps(asked), {"Content-Type": "application/json"}).json  # noqa: E731
    assert ask({"probabilities": [0.4, 0.6], "threshold": 0.4})["positive"] == 2
    empty = ask({"probabilities": []})
    assert (empty["share"], empty["interval"], empty["corrected_share"]) == (None, None, None)


def test_a_run_of_before_operating_points_says_so(head_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    for path in head_run.folder.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    record = read_json(folder / "decision.json")
    del record["operating_points"]
    write_json(folder / "decision.json", record)
    with running([folder]) as old:
        told = old.ask("GET", "/v1/models").json["models"][0]
        assert (told["operating_points"], told["validation_positives"]) == (None, None)
        asked = json.dumps({"probabilities": [0.9]})
        summary = old.ask("POST", "/v1/summary", asked, {"Content-Type": "application/json"}).json
    assert (summary["share"], summary["corrected_share"], summary["sensitivity"]) == (1.0, None, None)
    assert "not recorded" in " ".join(summary["notes"])


def test_health_and_metrics_count_what_was_asked(head_run: Run, cell: bytes) -> None:
    with running([f"a={head_run.folder}"]) as server:
        assert server.ask("GET", "/health/live").json == {"status": "live"}
        assert server.ask("GET", "/health/ready").json == {"status": "ready"}
        server.post("/v1/predict", [("one", cell), ("bad", b"x")])
        server.ask("GET", "/no/such/address?name=secret")
        text = server.ask("GET", "/metrics").body.decode()
    counted = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert counted['leukolens_requests_total{method="POST",route="/v1/predict",status="200"}'] == "1.0"
    assert counted['leukolens_requests_total{method="GET",route="unknown",status="404"}'] == "1.0"
    assert float(counted['leukolens_cells_total{outcome="failed"}']) == 1
    assert sum(float(counted[f'leukolens_cells_total{{outcome="{outcome}"}}']) for outcome in ("answered", "refused")) == 1
    assert (counted["leukolens_batch_pictures_count"], counted["leukolens_batch_pictures_sum"]) == ("1.0", "1.0")
    assert (counted["leukolens_bytes_in_flight"], counted["leukolens_queue_pictures"]) == ("0.0", "0.0")
    assert f'run_hash="{head_run.record["run_hash"]}"' in text
    assert "secret" not in text


def test_page_and_report_are_there(server: Running) -> None:
    for path, kind in (("/", "text/html"), ("/report", "text/html")):
        answer = server.ask("GET", path)
        assert (answer.status, answer.headers["content-type"].split(";")[0]) == (200, kind)
        assert answer.headers["cache-control"] == "no-cache"
    script = next(path.name for path in pages.PAGE.iterdir() if path.suffix == ".js")
    assert server.ask("GET", f"/static/{script}").headers["content-type"].startswith("text/javascript")
    document = server.ask("GET", "/report/document")
    assert b"A report" in document.body
    assert document.headers["content-security-policy"].endswith("sandbox")


@pytest.mark.parametrize("name", ["..%2fexport.py", "../export.py", "%2e%2e/export.py", "no.js", ".", "__init__.py"])
def test_no_other_file_is_given_out(server: Running, name: str) -> None:
    assert server.ask("GET", f"/static/{name}").status == 404


def test_without_results_there_is_no_report(head_run: Run) -> None:
    with running([head_run.folder]) as server:
        assert server.ask("GET", "/v1/models").json["results"] is False
        answer = server.ask("GET", "/report/document")
    assert answer.status == 404
    assert answer.error["remedy"] == "run `leukolens report RESULTS`, then `leukolens serve MODEL --results RESULTS`"


def test_description_names_every_address_and_loads_nothing_from_elsewhere(server: Running) -> None:
    described = server.ask("GET", "/openapi.json").json
    assert set(described["paths"]) == {"/v1/models", "/v1/predict", "/v1/explain", "/v1/summary", "/health/live",
                                       "/health/ready", "/metrics"}  # fmt: skip
    row = described["components"]["schemas"]["Row"]
    columns = {"index", *scores_schema(["HEM", "ALL"]).names}
    assert set(row["properties"]) == {name for name in columns if not name.startswith("probability_")}
    assert set(row["example"]) <= columns
    for path in ("/docs", "/redoc"):
        assert server.ask("GET", path).status == 404


def test_maps_need_a_known_layer(server: Running, cell: bytes) -> None:
    answer = server.post("/v1/explain", [("cell.png", cell)], "file")
    assert answer.status == 501
    assert "grad-cam" in answer.error["expected"]


@pytest.mark.parametrize("method", ["gradcam", "eigencam"])
def test_a_map_comes_with_the_row_of_its_cell(mapped: Running, cell: bytes, method: str) -> None:
    answer = mapped.post(f"/v1/explain?method={method}", [("cell.png", cell)], "file")
    assert answer.status == 200
    told = answer.json
    row = mapped.post("/v1/predict", [("cell.png", cell)]).json["results"][0]
    assert told["row"] == row
    assert (told["method"], told["class"]) == (method, "ALL")
    assert 0 < told["cell_share"] < 1
    start, _, encoded = told["overlay"].partition(",")
    assert start == "data:image/png;base64"
    overlay = Image.open(BytesIO(base64.b64decode(encoded)))
    alone = mapped.post(f"/v1/explain?method={method}", [("cell.png", cell)], "file", Accept="image/png")
    assert alone.headers["content-type"] == "image/png"
    assert Image.open(BytesIO(alone.body)).tobytes() == overlay.tobytes()


def test_a_map_of_no_picture_or_of_an_archive_is_refused(mapped: Running) -> None:
    assert mapped.post("/v1/explain", [("x", b"no picture")], "file").error["received"].startswith("not_an_image")
    assert mapped.post("/v1/explain", [("x", b"PK\x05\x06" + b"\0" * 18)], "file").error["received"] == "an archive"
    assert mapped.post("/v1/explain?method=guess", [("x", b"")], "file").status == 422


@pytest.fixture(scope="module")
def mapped(cohort: Any, tiny: TrainSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose network stands in the table, so that its last feature map is known."""
    pytest.importorskip("pytorch_grad_cam", reason="the extra `explain` is not installed: pip install 'leukolens[explain]'")
    settings = tiny.model_copy(update={"architecture": "tf_efficientnet_lite0", "finetune_epochs": 0})
    folder = tmp_path_factory.mktemp("mapped") / "run"
    train(cohort.manifest, cohort.splits, folder, settings, cohort.cache)
    with running([folder]) as started:
        yield started


def test_settings_of_a_server_reject_what_cannot_be(tmp_path: Path) -> None:
    for given in ({"allow_origin": ("*",)}, {"allow_origin": ("https://a/b",)}, {"allow_origin": ("a.example",)},
                  {"limits": {"max_file_bytes": 1 << 40}}, {"colour": "red"}):  # fmt: skip
        with pytest.raises(ValueError, match=r"origin|max_file_bytes|Extra inputs"):
            ServeSettings.model_validate(given)

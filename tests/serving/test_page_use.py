"""How the page is used: keys, screen readers, small screens, dark mode, a busy or missing server, thousands of cells."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from browser import Sent, Visit, served, visit
from cohort import draw_cell
from leukolens.training.runs import Run

PHONE = {"width": 375, "height": 667}
DROP = """([bytes, names]) => {
  const dataTransfer = new DataTransfer();
  for (const name of names) dataTransfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  document.querySelector("#drop").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


@pytest.fixture
def full(browser: Any, page_address: str, sent: Sent) -> Iterator[Visit]:
    """The page with all of `sent` scored."""
    with visit(browser, page_address) as opened:
        opened.send(*sent.paths, results=len(sent.rows))
        yield opened


def tiny_png() -> list[int]:
    buffer = io.BytesIO()
    Image.fromarray(draw_cell(1)).save(buffer, "PNG")
    return list(buffer.getvalue())


def found(axe: Any, opened: Visit) -> list[str]:
    """What the accessibility checker objects to."""
    violations = axe.run(opened.page, options={"resultTypes": ["violations"]}).response["violations"]
    nodes = [(each["id"], node) for each in violations for node in each["nodes"]]
    return [f"{rule}: {node['html'][:120]} {node['failureSummary'][:200]}" for rule, node in nodes]


class TestKeyboard:
    def test_everything_is_reached_and_arrows_move_in_the_gallery(self, full: Visit) -> None:
        full.page.evaluate("document.activeElement.blur()")
        full.page.locator("#patient-label").wait_for()
        reached: list[str] = []
        where = "[document.activeElement.id, document.activeElement.className, document.activeElement.tagName].find(Boolean)"
        while not reached or reached.count(reached[0]) < 2:
            full.page.keyboard.press("Tab")
            reached.append(full.page.evaluate(where))
            assert len(reached) < 60
        for wanted in (
            "skip",
            "choose-files",
            "choose-folder",
            "slider",
            "patient-label",
            "sort",
            "csv",
            "print",
            "clear",
            "cell",
            "map-method",
        ):
            assert any(wanted in each for each in reached), (wanted, reached)
        # One stop for each list, however many cells it has.
        assert reached.count("cell") == 2
        full.page.locator("#answered .cell").first.focus()
        columns = full.page.evaluate(
            "getComputedStyle(document.querySelector('#answered')).gridTemplateColumns.split(' ').length"
        )
        where = "[...document.querySelectorAll('#answered .cell')].indexOf(document.activeElement)"
        for key, place in (
            ("ArrowRight", 1),
            ("ArrowDown", 1 + columns),
            ("ArrowLeft", columns),
            ("ArrowUp", 0),
            ("ArrowUp", 0),
        ):
            full.page.keyboard.press(key)
            assert full.page.evaluate(where) == place
        full.page.keyboard.press("End")
        assert full.page.evaluate(where) == full.page.locator("#answered .cell").count() - 1
        full.page.keyboard.press("Home")
        assert full.page.evaluate(where) == 0
        outline = full.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"

    def test_progress_is_spoken(self, full: Visit, sent: Sent) -> None:
        assert full.page.locator("#spoken").get_attribute("aria-live") == "polite"
        full.page.get_by_text(f"{len(sent.names)} of {len(sent.names)} files done: {len(sent.rows)} results").first.wait_for()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_finds_nothing(self, browser: Any, page_address: str, sent: Sent, scheme: str) -> None:
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        with visit(
            browser, page_address, color_scheme=scheme, viewport={"width": 1280, "height": 900}, bypass_csp=True
        ) as opened:
            opened.page.locator("#drop").wait_for()
            assert found(axe, opened) == []
            opened.send(*sent.paths, results=len(sent.rows))
            opened.page.locator(".cell").first.focus()
            opened.page.locator("#inspected").wait_for()
            opened.page.get_by_text("answered cells.").first.wait_for()
            assert found(axe, opened) == []


class TestScreens:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_phone_scrolls_in_one_direction_only(self, browser: Any, page_address: str, sent: Sent, scheme: str) -> None:
        with visit(
            browser, page_address, viewport=PHONE, has_touch=True, color_scheme=scheme, reduced_motion="reduce"
        ) as opened:
            width = "document.documentElement.scrollWidth"
            assert opened.page.evaluate(width) == PHONE["width"]
            opened.send(*sent.paths, results=len(sent.rows))
            assert opened.page.evaluate(width) == PHONE["width"]
            assert opened.page.locator("#inspector").is_hidden()
            opened.page.locator("#answered .cell").first.tap()
            opened.page.locator("#inspected-picture").wait_for()
            box = opened.page.locator("#inspector").bounding_box()
            assert (box["width"], round(box["y"] + box["height"])) == (PHONE["width"], PHONE["height"])
            assert opened.page.evaluate(width) == PHONE["width"]
            opened.page.locator("#inspector-close").tap()
            assert opened.page.locator("#inspector").is_hidden()

    def test_dark_is_dark(self, browser: Any, page_address: str) -> None:
        for scheme, colour in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 25, 29)")):
            with visit(browser, page_address, color_scheme=scheme) as opened:
                assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == colour


class TestTrouble:
    def test_a_busy_server_is_asked_again(self, browser: Any, page_address: str, sent: Sent) -> None:
        answers = iter([429, 503])
        busy = {"error": {"message": "The queue is full.", "expected": "", "received": "", "remedy": "come again"}}

        def answer(route: Any) -> None:
            status = next(answers, None)
            if status is None:
                route.continue_()
            else:
                route.fulfill(status=status, json=busy, headers={"Retry-After": "1"})

        with visit(browser, page_address, lambda page: page.route("**/v1/predict**", answer)) as opened:
            opened.page.set_input_files("#choose-files", sent.folder / "cell 0.png")
            opened.page.get_by_text("The server is busy; trying again in 1 s.").first.wait_for()
            opened.wait_for(1)
            assert len(opened.problems) == 2 and all("Failed to load resource" in problem for problem in opened.problems)
            opened.problems.clear()

    def test_what_failed_can_be_sent_again_without_what_came(self, browser: Any, page_address: str, sent: Sent) -> None:
        names = [f"cell {number}.png" for number in range(4)]
        asked: list[int] = []

        def answer(route: Any) -> None:
            asked.append(route.request.post_data_buffer.count(b'name="files"'))
            if len(asked) > 1:
                route.continue_()
                return
            row = next(row for row in sent.rows if row["input"] == names[0])
            numbers = {
                name: float(value) for name, value in row.items() if name.startswith(("probability", "score", "outlier"))
            }
            lines = [{"model": {}}, {"row": {**{name: value or None for name, value in row.items()}, **numbers, "index": 0}},
                     {"error": {"message": "The request took too long.", "remedy": "send fewer at a time"}}]  # fmt: skip
            route.fulfill(status=200, content_type="application/x-ndjson", body="\n".join(map(json.dumps, lines)))

        with visit(browser, page_address, lambda page: page.route("**/v1/predict**", answer)) as opened:
            opened.page.set_input_files("#choose-files", [sent.folder / name for name in names])
            opened.page.locator("#unsent").wait_for()
            assert (
                opened.text("#unsent-list") == "cell 1.png and 2 more files: The request took too long. – send fewer at a time"
            )
            assert len(opened.texts(".card")) == 1
            opened.page.click("#retry")
            opened.wait_for(4)
            assert asked == [4, 3]
            rows = {row["input"]: row for row in csv.DictReader(io.StringIO(opened.download()[1].decode()))}
            assert rows == {row["input"]: row for row in sent.rows if row["input"] in names}
            assert opened.page.locator("#unsent").is_hidden()

    def test_cancel_stops_and_keeps_what_is_left(self, browser: Any, page_address: str, sent: Sent) -> None:
        held: list[Any] = []
        with visit(
            browser, page_address, lambda page: page.route("**/v1/predict**", lambda route: held.append(route))
        ) as opened:
            opened.page.set_input_files("#choose-files", [sent.folder / "cell 0.png", sent.folder / "cell 1.png"])
            opened.page.locator("#cancel").click()
            opened.page.get_by_text("cell 0.png and 1 more file: cancelled.").wait_for()
            assert held
            opened.page.unroute("**/v1/predict**")
            opened.page.click("#retry")
            opened.wait_for(2)

    def test_what_is_too_large_for_the_server_is_not_sent(self, browser: Any, page_address: str, sent: Sent) -> None:
        def shrink(route: Any) -> None:
            said = route.fetch().json()
            said["limits"] |= {"max_file_bytes": 4000, "max_request_bytes": 20_000, "max_files": 3}
            route.fulfill(json=said)

        asked: list[int] = []

        def measure(route: Any) -> None:
            asked.append(len(route.request.post_data_buffer))
            route.continue_()

        def prepare(page: Any) -> None:
            page.route("**/v1/models", shrink)
            page.route("**/v1/predict**", measure)

        with visit(browser, page_address, prepare) as opened:
            opened.send(*[sent.folder / f"cell {number}.png" for number in range(7)], sent.folder / "noise.png")
            assert opened.texts("#failed th") == ["noise.png"]
            assert "larger than allowed" in opened.text("#failed")
            assert len(asked) == 3
            assert max(asked) <= 20_000

    def test_a_token_is_asked_for_and_kept_in_this_tab(self, browser: Any, page_address: str, sent: Sent) -> None:
        refusal = {"error": {"message": "A token is needed.", "expected": "", "received": "", "remedy": ""}}
        given: list[str] = []

        def answer(route: Any) -> None:
            given.append(route.request.headers.get("authorization", ""))
            if given[-1] == "Bearer right-token-of-the-lab":
                route.continue_()
            else:
                route.fulfill(status=401, json=refusal)

        with visit(browser, page_address, lambda page: page.route("**/v1/**", answer)) as opened:
            opened.page.get_by_text("The server answers only to those who have its token.").wait_for()
            opened.page.fill("#access-token", "wrong")
            opened.page.keyboard.press("Enter")
            opened.page.get_by_text("The server does not accept this token.").wait_for()
            opened.page.fill("#access-token", "right-token-of-the-lab")
            opened.page.keyboard.press("Enter")
            opened.page.locator("#drop").wait_for()
            opened.send(sent.folder / "cell 0.png")
            assert given[:3] == ["", "Bearer wrong", "Bearer right-token-of-the-lab"]
            assert opened.page.evaluate("localStorage.length + document.cookie.length") == 0
            assert "token" not in opened.page.url
            opened.page.click("#forget")
            opened.page.locator("#access-token").wait_for()
            opened.problems.clear()

    def test_a_server_that_is_gone_is_named_and_asked_again(self, browser: Any, page_address: str) -> None:
        gone = iter([True])

        def answer(route: Any) -> None:
            route.abort() if next(gone, False) else route.continue_()

        with visit(browser, page_address, lambda page: page.route("**/v1/models", answer)) as opened:
            opened.page.get_by_text("The server does not answer.").wait_for()
            opened.page.get_by_role("button", name="Try again").click()
            opened.page.locator("#drop").wait_for()
            assert opened.page.locator("#trouble > *").count() == 0
            opened.problems.clear()

    def test_files_that_come_before_the_models_are_known_wait(self, browser: Any, page_address: str, sent: Sent) -> None:
        held: list[Any] = []
        with visit(browser, page_address, lambda page: page.route("**/v1/models", lambda route: held.append(route))) as opened:
            opened.page.set_input_files("#choose-files", sent.folder / "cell 0.png")
            assert opened.page.locator("#intake").is_hidden()
            held[0].continue_()
            opened.wait_for(1)

    def test_a_synthetic_or_optimistic_model_bears_a_banner(self, browser: Any, page_address: str) -> None:
        def change(route: Any) -> None:
            said = route.fetch().json()
            said["models"][0] |= {"synthetic": True, "optimistic": True, "operating_points": None}
            route.fulfill(json=said)

        with visit(browser, page_address, lambda page: page.route("**/v1/models", change)) as opened:
            opened.page.get_by_text("SYNTHETIC MODEL.").wait_for()
            opened.page.get_by_text("OPTIMISTIC MODEL.").wait_for()
            assert "Research software, not a medical device." in opened.text("#notice")
            rates = opened.page.locator("#threshold-rates").text_content()
            assert rates == "Sensitivity and specificity at this threshold were not recorded when the model was trained."


class TestModels:
    def test_another_model_scores_the_same_files_anew(self, browser: Any, page_address: str, sent: Sent) -> None:
        asked: list[str] = []
        with visit(browser, page_address) as opened:
            opened.page.on("request", lambda request: asked.append(request.url) if "/v1/predict" in request.url else None)
            opened.send(sent.folder / "cell 0.png", sent.folder / "empty.png")
            with opened.page.expect_response("**/v1/predict?model=again"):
                opened.page.select_option("#model-name", "again")
                assert opened.page.locator(".card").count() == 0
            opened.wait_for(2)
            assert [url.partition("?")[2] for url in asked] == ["model=tiny", "model=again"]

    def test_three_classes_of_which_none_is_positive(self, browser: Any, page_address: str, sent: Sent) -> None:
        shares = {"probability_A": 0.2, "probability_B": 0.7, "probability_C": 0.1}
        row = {"index": 0, "status": "scored", "decision": "B", "prediction_set": "A|B", "outlier_score": 0.5} | shares
        row |= dict.fromkeys(("score", "refusal", "seen_in", "error", "detail"))

        def models(route: Any) -> None:
            said = route.fetch().json()
            changed = {
                "classes": ["A", "B", "C"],
                "positive": [],
                "positive_name": "",
                "threshold": None,
                "operating_points": None,
            }
            said["models"][0] |= changed
            route.fulfill(json=said)

        def answer(route: Any) -> None:
            lines = [{"model": {}}, {"row": row}, {"counts": {}}]
            route.fulfill(status=200, content_type="application/x-ndjson", body="\n".join(map(json.dumps, lines)))

        def prepare(page: Any) -> None:
            page.route("**/v1/models", models)
            page.route("**/v1/predict**", answer)

        with visit(browser, page_address, prepare) as opened:
            opened.send(sent.folder / "cell 0.png")
            assert opened.text("#headline").endswith("how probable each of A, B and C is; or it does not answer.")
            assert "B 70.0\u202f%" in opened.page.inner_text(".card")
            assert "likely B" in opened.page.inner_text(".card")
            assert opened.page.locator("#threshold").is_hidden() and opened.page.locator("#patient").is_hidden()
            lines = opened.download()[1].decode().splitlines()
            assert lines[1] == '"cell 0.png","scored",,0.2,0.7,0.1,"B","A|B",0.5,,,,'
            opened.page.evaluate("window.print = () => { window.isReady = true; }")
            opened.page.click("#print")
            opened.until("window.isReady")
            assert "The most probable class decides." in opened.page.locator("#printed").text_content()


class TestMany:
    @pytest.mark.slow
    def test_five_thousand_results_stay_in_hand(self, browser: Any, page_address: str) -> None:
        def row(index: int, count: int) -> dict[str, Any]:
            chance = index / count
            said = {"index": index, "status": "scored", "score": chance, "outlier_score": 0.5, "prediction_set": "ALL"}
            decided = {"probability_ALL": chance, "probability_HEM": 1 - chance, "decision": "ALL" if chance > 0.5 else "HEM"}
            return {"row": {**dict.fromkeys(("error", "detail", "seen_in", "refusal")), **said, **decided}}

        def answer(route: Any) -> None:
            count = route.request.post_data_buffer.count(b'name="files"')
            rows = [row(index, count) for index in range(count)]
            lines = [{"model": {}}, *rows, {"counts": {}}]
            route.fulfill(status=200, content_type="application/x-ndjson", body="\n".join(map(json.dumps, lines)))

        with visit(browser, page_address, lambda page: page.route("**/v1/predict**", answer)) as opened:
            opened.page.locator("#drop").wait_for()
            opened.page.evaluate(DROP, [tiny_png(), [f"cell {number}.png" for number in range(5000)]])
            opened.wait_for(5000)
            opened.page.select_option("#sort", "improbable")
            opened.page.locator("#slider").focus()
            opened.page.keyboard.press("End")
            assert opened.text("#figures li[data-call=positive]").startswith("0 ")
            opened.page.keyboard.press("Home")
            assert opened.text("#figures li[data-call=positive]").startswith("5,000 ")
            opened.page.locator("#answered .cell").first.focus()
            for key in ("End", "Home"):
                opened.page.keyboard.press(key)
                opened.page.wait_for_timeout(300)
            drawn = opened.page.locator(".card canvas").evaluate_all("all => all.filter(each => each.width > 0).length")
            assert 0 < drawn < 300
            assert len(opened.download()[1].splitlines()) == 5001


class TestReport:
    def test_the_second_page_shows_the_report_in_a_frame_without_scripts(self, browser: Any, page_address: str) -> None:
        with visit(browser, page_address) as opened:
            opened.page.click("#report-link")
            opened.page.frame_locator("#document").get_by_text("A report").wait_for()
            assert opened.page.url == f"{page_address}/report"
            opened.page.get_by_role("link", name="Score cells").click()
            opened.page.locator("#drop").wait_for()

    def test_without_results_it_says_what_to_do(self, browser: Any, page_address: str) -> None:
        def change(route: Any) -> None:
            route.fulfill(json={**route.fetch().json(), "results": False})

        with visit(browser, f"{page_address}/report", lambda page: page.route("**/v1/models", change)) as opened:
            opened.page.get_by_text("start it with `leukolens serve MODEL --results FOLDER`").wait_for()

    @pytest.mark.slow
    def test_with_a_token_the_frame_gets_it_in_no_address(
        self, browser: Any, head_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "report.html").write_text("<!DOCTYPE html><title>R</title><p>A report</p>")
        monkeypatch.setenv("LEUKOLENS_TOKEN", "right-token-of-the-lab")
        with served(tmp_path, head_run.folder, "--results", tmp_path) as address, visit(browser, f"{address}/report") as opened:
            asked: list[str] = []
            opened.page.on("request", lambda request: asked.append(request.url))
            opened.page.fill("#access-token", "right-token-of-the-lab")
            opened.page.keyboard.press("Enter")
            opened.page.frame_locator("#document").get_by_text("A report").wait_for()
            assert asked and not any("right-token" in url for url in asked)
            assert all("401" in problem for problem in opened.problems)
            opened.problems.clear()

"""The web page in Chromium, against a server with a tiny network: what it shows is what `predict` writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from browser import SCRIPT_NAME, Sent, Visit, visit

OVERLAY = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
CARDS = """() => [...document.querySelectorAll("#answered .card")].map((card) =>
  [...card.querySelectorAll(".decision span + span, .chance, .meaning, .name, .tag")].map((e) => e.textContent).join("\\n")
)"""
CHANCES = ((0.9, "very likely"), (0.66, "likely"), (0.33, "as likely as not"), (0.1, "unlikely"), (0, "very unlikely"))


@pytest.fixture
def full(browser: Any, page_address: str, sent: Sent) -> Iterator[Visit]:
    """The page with all of `sent` scored."""
    with visit(browser, page_address) as opened:
        opened.send(*sent.paths, results=len(sent.rows))
        yield opened


def with_maps(answer: Callable[[Any], None]) -> Callable[[Any], None]:
    """Prepare a tab in which the server says that it makes maps, and `answer` makes them."""

    def models(route: Any) -> None:
        said = route.fetch().json()
        said["models"][0]["explain"] = True
        route.fulfill(json=said)

    def prepare(page: Any) -> None:
        page.route("**/v1/models", models)
        page.route("**/v1/explain**", answer)

    return prepare


class TestRows:
    def test_the_csv_is_byte_for_byte_what_predict_writes(self, full: Visit, sent: Sent) -> None:
        assert full.download() == ("scores.csv", sent.table)

    def test_each_standing_is_in_its_own_place(self, full: Visit, sent: Sent) -> None:
        assert sent.of("answered") and sent.of("refused") and len(sent.of("failed")) == 3
        for standing in ("answered", "refused"):
            assert len(full.texts(f"#{standing} .card")) == len(sent.of(standing))
        assert full.texts("#failed th") == ["empty.png", "pack.zip/../out.png", "page.bmp"]
        assert "it has no bytes" in full.text("#failed tr:nth-child(1)")
        assert "its name leads out of the archive" in full.text("#failed tr:nth-child(2)")
        assert full.text("#refused-title") == f"Not answered ({len(sent.of('refused'))})"
        reasons = {row["refusal"][:1].upper() + row["refusal"][1:] for row in sent.of("refused")}
        assert set(full.texts("#refused .refusal")) == reasons
        assert set(full.texts("#refused .decision")) == {"no answer"}

    def test_a_card_tells_decision_probability_and_what_it_means(self, full: Visit, sent: Sent) -> None:
        cards = {
            card.split("\n")[-1] if "seen in" not in card else card.split("\n")[-2]: card for card in full.page.evaluate(CARDS)
        }
        plain = [row for row in sent.of("answered") if row["input"].startswith(("cell", "seen"))]
        assert plain
        for row in plain:
            chance = float(row["probability_ALL"])
            words = next(words for least, words in CHANCES if chance >= least)
            lines = [row["decision"], f"ALL {100 * chance:.1f}\u202f%", f"{words} ALL", row["input"]]
            sides = {"train": ["seen in training"], "validation": ["seen in validation"], "": []}
            assert cards[row["input"]].split("\n") == lines + sides[row["seen_in"]]

    def test_names_of_strangers_are_text(self, full: Visit) -> None:
        assert full.page.evaluate("window.hacked") is None
        assert SCRIPT_NAME in full.texts(".card .name")
        assert "two\\nlines.bmp" in full.texts(".card .name")
        assert "\\u202eright.bmp" in full.texts(".card .name")
        assert full.page.locator(".card img, #failed img, script:not([src])").count() == 0

    def test_pictures_are_drawn_from_files_and_members_of_archives_and_tiff_has_a_labelled_place(self, full: Visit) -> None:
        for name in ("cell 3.png", "seen 0.bmp", "pack.zip/packed/0.png"):
            canvas = full.page.locator(".card", has_text=name).locator("canvas")
            canvas.scroll_into_view_if_needed()
            full.until("canvas => canvas.width > 0", canvas.element_handle())
            middle = "c => [...c.getContext('2d').getImageData(c.width / 2, c.width / 2, 1, 1).data]"
            red, green, blue, opacity = canvas.evaluate(middle)
            # Violet, as the cells are drawn.
            assert blue > red > green and opacity == 255
        tiff = full.page.locator(".card", has_text="cell.tiff")
        tiff.scroll_into_view_if_needed()
        tiff.locator(".placeholder").wait_for(state="visible")
        assert "TIFF: no picture in this browser" in tiff.inner_text()


class TestViews:
    def test_filter(self, full: Visit, sent: Sent) -> None:
        by_chip = dict(text.rsplit(" ", 1) for text in full.texts("#filter label"))
        seen = [row for row in sent.rows if row["seen_in"]]
        calls = {name: [row for row in sent.of("answered") if row["decision"] == name] for name in ("HEM", "ALL")}
        numbers = {"All": len(sent.rows), "HEM": len(calls["HEM"]), "ALL": len(calls["ALL"])}
        numbers |= {"Not answered": len(sent.of("refused")), "Without a score": 3, "Seen before": len(seen)}
        assert by_chip == {name: str(number) for name, number in numbers.items()}
        for chip, rows in (("HEM", calls["HEM"]), ("Seen before", seen), ("Not answered", sent.of("refused"))):
            full.page.locator("#filter label", has_text=chip).first.click()
            assert len(full.texts(".card")) == len(rows)
        assert full.page.locator("#answered-part").is_hidden()

    def test_sort(self, full: Visit, sent: Sent) -> None:
        chances = {row["input"]: float(row["probability_ALL"]) for row in sent.of("answered")}
        plain = {name for name in chances if name.startswith(("cell", "seen"))}
        for value, reverse in (("probable", True), ("improbable", False)):
            full.page.select_option("#sort", value)
            shown = [name for name in full.texts("#answered .name") if name in plain]
            assert [chances[name] for name in shown] == sorted((chances[name] for name in shown), reverse=reverse)
            assert len(shown) == len(plain)
        threshold = full.page.evaluate("fetch('/v1/models').then(r => r.json()).then(said => said.models[0].threshold)")
        full.page.select_option("#sort", "uncertain")
        shown = [name for name in full.texts("#answered .name") if name in plain]
        distances = [abs(chances[name] - threshold) for name in shown]
        assert distances == sorted(distances)
        full.page.select_option("#sort", "name")
        shown = [name for name in full.texts("#answered .name") if name.startswith("cell ")]
        assert shown == sorted(shown, key=lambda name: int(name.split()[1].removesuffix(".png")))

    def test_slider_decides_anew_and_goes_back(self, full: Visit, sent: Sent) -> None:
        full.page.locator("#slider").focus()
        full.page.keyboard.press("End")
        assert full.text("#threshold-value") in ("1.00", "0.99")
        assert full.text("#threshold-standing") == "moved"
        assert full.page.locator("#threshold-moved").is_visible()
        assert set(full.texts("#answered .decision")) == {"HEM"}
        assert full.text("#figures li[data-call=positive]").startswith("0 ")
        name, content = full.download()
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        assert name.startswith("scores-threshold-")
        assert [row["decision"] for row in rows] == [row["decision"] for row in sent.rows]
        assert {row["decision_at_moved_threshold"] for row in rows if row["status"] == "scored"} == {"HEM"}
        full.page.click("#threshold-back")
        assert full.text("#threshold-standing") == "as validated"
        assert full.download() == ("scores.csv", sent.table)

    def test_error_rates_of_validation_stand_at_the_slider(self, full: Visit) -> None:
        model = full.page.evaluate("fetch('/v1/models').then(r => r.json()).then(said => said.models[0])")
        full.page.locator("#slider").focus()
        full.page.keyboard.press("Home")
        point = min(model["operating_points"], key=lambda each: each["threshold"])
        assert point["sensitivity"] == 1.0
        assert f"sensitivity 100.0\u202f%, specificity {100 * point['specificity']:.1f}\u202f%" in full.page.inner_text(
            "#threshold-rates"
        )
        assert f"{model['validation_images']} images" in full.text("#threshold-rates")


class TestPatient:
    def test_share_follows_the_slider(self, full: Visit, sent: Sent) -> None:
        full.page.locator("#patient").wait_for()
        positive = [row for row in sent.of("answered") if row["decision"] == "ALL"]
        expected = f"{len(positive)} of {len(sent.of('answered'))} answered cells."
        full.page.get_by_text(expected).wait_for()
        share = f"{100 * len(positive) / len(sent.of('answered')):.1f}"
        assert full.text("#patient .lead").startswith(f"Share of ALL cells: {share} %")
        full.page.locator("#slider").focus()
        full.page.keyboard.press("End")
        full.page.get_by_text(f"0 of {len(sent.of('answered'))} answered cells.").wait_for()
        assert full.page.locator("#patient-notes li").count() >= 1

    def test_label_stays_in_the_tab_and_is_printed(self, full: Visit) -> None:
        bodies: list[str] = []
        full.page.on("request", lambda request: bodies.append(f"{request.url} {request.post_data or ''}"))
        full.page.fill("#patient-label", "Jane <b>Doe</b>")
        full.page.locator("#slider").focus()
        full.page.keyboard.press("End")
        full.page.get_by_text("0 of").first.wait_for()
        full.page.wait_for_timeout(600)
        full.page.evaluate("window.print = () => { window.printed = document.querySelector('#printed').innerHTML; }")
        full.page.click("#print")
        full.until("window.printed")
        assert "Cells of Jane &lt;b&gt;Doe&lt;/b&gt;" in full.page.evaluate("window.printed")
        assert bodies and not any("Jane" in body for body in bodies)
        assert full.page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])") == '[{},{},""]'


class TestPrint:
    def test_report_is_a4_with_all_parts(self, full: Visit, sent: Sent) -> None:
        full.page.evaluate("window.print = () => { window.isReady = true; }")
        full.page.click("#print")
        full.until("window.isReady")
        full.page.emulate_media(media="print")
        headings = full.texts("#printed h3")
        assert f"Answered cells ({len(sent.of('answered'))})" in headings
        assert f"Not answered ({len(sent.of('refused'))})" in headings
        assert "Without a score (3)" in headings
        assert full.page.locator("header").is_hidden()
        pictures = len([row for row in sent.of("answered") if not row["input"].endswith(".tiff")])
        drawn = "all => all.filter((each) => each.complete && each.naturalWidth > 0).length"
        assert full.page.locator("#printed img").evaluate_all(drawn) == min(40, pictures)
        pdf = full.page.pdf(prefer_css_page_size=True)
        assert b"/MediaBox [0 0 594" in pdf or b"/MediaBox [0 0 595" in pdf
        full.page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert full.page.locator("#printed > *").count() == 0


class TestMaps:
    """The tiny network has no layer for maps: what the server would say of one that has is put in its place."""

    def test_one_cell_closely_with_its_map_asked_for_once(self, browser: Any, page_address: str, sent: Sent) -> None:
        asked: list[tuple[str, bytes]] = []

        def answer(route: Any) -> None:
            asked.append((route.request.url, route.request.post_data_buffer))
            said = {"class": "ALL", "inside_share": 0.713, "cell_share": 0.18, "peak_inside": False, "overlay": OVERLAY}
            route.fulfill(json=said)

        with visit(browser, page_address, with_maps(answer)) as opened:
            opened.send(*sent.paths, results=len(sent.rows))
            first, second = (
                opened.page.locator(f".cell:has([title='{name}'])") for name in ("seen 0.bmp", "pack.zip/packed/1.png")
            )
            first.hover()
            opened.page.locator("#inspected-map img").wait_for()
            words = "71\u202f% of the map is on the cell, which covers 18\u202f% of the picture; its peak is beside the cell."
            assert opened.page.locator("#inspected-map img").get_attribute("alt") == f"Grad-CAM map over the cell. {words}"
            assert opened.page.locator("#map-words").text_content() == words
            assert opened.page.evaluate("document.querySelector('#inspected-picture img').naturalWidth") == 48
            second.focus()
            opened.page.locator("#inspected-name", has_text="pack.zip/packed/1.png").wait_for()
            opened.page.locator("#inspected-map img").wait_for()
            # The member of an archive is sent as the picture that it is.
            assert (sent.folder / "cell 1.png").read_bytes() in asked[1][1]
            first.focus()
            opened.page.locator("#inspected-map img").wait_for()
            assert ["gradcam" in url for url, _ in asked] == [True, True]
            opened.page.select_option("#map-method", "eigencam")
            opened.page.locator("#inspected-map img[alt^='Eigen-CAM']").wait_for()
            assert "method=eigencam" in asked[2][0]

    def test_moving_over_many_cells_asks_for_the_first_and_the_last(self, browser: Any, page_address: str, sent: Sent) -> None:
        held: list[Any] = []
        with visit(browser, page_address, with_maps(lambda route: held.append(route))) as opened:
            opened.send(*[sent.folder / f"cell {number}.png" for number in range(6)])
            for number in range(6):
                opened.page.locator(".cell").nth(number).focus()
                opened.page.wait_for_timeout(30)
            assert len(held) == 1
            last = opened.text("#inspected-name")
            held[0].fulfill(status=501, json={"error": {"message": "No maps here.", "remedy": "install them"}})
            opened.until("document.querySelector('#inspected-map').textContent === 'Map is made …'")
            opened.page.wait_for_timeout(200)
            assert len(held) == 2
            assert f'filename="{last}"'.encode() in held[1].request.post_data_buffer
            held[1].fulfill(status=501, json={"error": {"message": "No maps here.", "remedy": "install them"}})
            opened.page.get_by_text("No map: No maps here. install them").wait_for()
            assert all("501" in problem for problem in opened.problems)
            opened.problems.clear()

    def test_a_model_without_maps_says_so(self, full: Visit) -> None:
        full.page.locator(".cell").first.focus()
        full.page.get_by_text("This server makes no maps of this model.").wait_for()

    def test_object_urls_are_given_back(self, browser: Any, page_address: str, sent: Sent) -> None:
        counting = """
        window.urls = new Set();
        const [create, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
        URL.createObjectURL = (blob) => { const made = create.call(URL, blob); window.urls.add(made); return made; };
        URL.revokeObjectURL = (url) => { window.urls.delete(url); revoke.call(URL, url); };
        """
        with visit(browser, page_address, lambda page: page.add_init_script(counting)) as opened:
            opened.send(*[sent.folder / f"cell {number}.png" for number in range(6)])
            for number in range(6):
                opened.page.locator(".cell").nth(number).focus()
            opened.download()
            opened.until("window.urls.size === 1")
            opened.page.click("#clear")
            opened.until("window.urls.size === 0")

"""The model card: its headings, its protocol and hashes, and that nothing of the user's files escapes."""

from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt

from leukolens.artifacts import Manifest, Splits, hash_file, read_json, write_json
from leukolens.reporting.checklists import CHECKLISTS, COVERED, HEADINGS, NUMBERING
from leukolens.reporting.data_sheet import write_data_sheet
from leukolens.reporting.markdown import plain
from reporting.example_run import HOSTILE, build, card, cells, headings, manifest, metrics, run_record, section


def test_card_has_every_heading_in_order_and_says_that_nothing_is_absent(run):
    text = card(run)
    assert headings(text) == [*HEADINGS, "Reporting checklists"]
    assert headings(text, "h1") == ["Model card: ResNet-50"]
    assert "Absent" not in text
    assert "is empty" in text  # one split, one seed: the spread is not measured
    assert '"Variation" is empty: 30 robustness.' in text


@pytest.mark.parametrize("checklist", CHECKLISTS, ids=lambda checklist: checklist.name)
def test_every_item_stands_in_the_card_under_a_heading_that_exists_or_with_people(run, checklist):
    text = card(run)
    own = text.split(f"\n### {checklist.name}\n")[1].split("\n### ")[0]
    for item in checklist.items:
        if item.status == COVERED:
            assert f"\n## {item.section}\n" in text
            line = next(line for line in own.splitlines() if f'"{item.section}"' in line)
            assert re.search(rf"[:;] {item.number} {re.escape(item.name)}[;.]", line), item
        left = f"- [ ] to be filled by people: {item.number}, {item.name}" + (f": {item.left}" if item.left else "")
        assert (f"{left}\n" in own) == bool(item.status != COVERED or item.left), item
    assert NUMBERING in text


def test_first_lines_hold_the_answer(run):
    first = card(run).split("## Model details")[0]
    assert "measured on 10 images of 2 subjects in 2 subject groups (side: test)" in first
    assert "- AUROC: 0.912, 95 % interval 0.701 to 0.953\n" in first.replace("\u202f", " ")
    assert "- baselines: **not all beaten** by more than the paired interval" in first
    assert "not a medical device" in first


def test_hashes_are_those_of_the_files(run):
    text = card(run)
    data = Manifest.load(run.parents[1])
    assert f"`{data.content_hash}`" in section(text, "Data")
    assert f"`{Splits.load(run.parent).content_hash}`" in section(text, "Protocol")
    assert cells(section(text, "Reproduction"), "trained weights")[1] == f"`{hash_file(run / 'weights.safetensors')}`"
    assert cells(section(text, "Reproduction"), "predictions")[1] == f"`{'e' * 64}`"


def test_protocol_shows_audit_and_counts(run):
    text = section(card(run), "Protocol")
    assert "```text\nsplit by subject, seed 3\ngroups on two sides: 0\n```" in text
    assert "| test       | HEM   | 5      | 1        | 1      |" in text
    assert "All cells of a subject group are on one side." in text


def test_the_same_files_give_the_same_card_and_nothing_half_written_stays(run):
    first = card(run)
    assert card(run) == first
    assert [path.name for path in run.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize(
    ("treatment", "said"),
    [
        ({}, "to 450 x 450 px (height, width), resized to"),
        ({"crop": "centre", "crop_px": 300}, "(height, width), cut down to its central square of 300 px, resized to"),
        ({"crop": "cell", "colour": "grey"},
         "(height, width), cut down to a square around the cell (its size is lost), turned grey, resized to"),
        ({"colour": "constancy"},
         "(height, width), its foreground put under a neutral light (shades of grey), resized to"),
    ],
)  # fmt: skip
def test_card_says_how_pictures_were_treated(run, treatment, said):
    record = read_json(run / "run.json")
    write_json(run / "run.json", {**record, "preprocessing": record["preprocessing"] | treatment})
    assert said in " ".join(section(card(run), "Model details").split())


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_data_open_both_documents(tmp_path, synthetic):
    run = build(tmp_path / "results", manifest(synthetic=synthetic))
    for text in (card(run), write_data_sheet(tmp_path / "results").read_text(encoding="utf-8")):
        assert text.split("\n\n")[1].startswith("**SYNTHETIC DATA.**") is synthetic
        assert ("says anything about leukemia" in text) is synthetic


def test_cross_validation_has_no_run_but_a_card(run):
    made = run_record(manifest())
    (run / "run.json").unlink()
    (run / "decision.json").unlink()
    (run / "weights.safetensors").unlink()
    (run.parent / "splits.parquet").rename(run.parent / "splits-0.parquet")
    settings = {"folds": 5, "train": {"finetune_epochs": 0, "class_weights": False, "architecture": "vgg16", "seed": 0}}
    write_json(run / "crossval.json", {**made, "settings": settings})
    values = read_json(run / "metrics.json")
    test = values["sides"]["test"]
    test["repeats"] = {"count": 3, "spread": {"auroc": 0.0214}, "values": {}}
    test["folds"] = [{**test["folds"][0], "repeat": repeat, "fold": fold} for repeat in range(3) for fold in range(2)]
    values["record"]["split_label"] = "cross-validated by subject, 2 folds × 3 seeds"
    values["record"]["decisions"] = [{**values["record"]["decisions"][0], "repeat": repeat} for repeat in range(3)]
    write_json(run / "metrics.json", values)
    text = card(run)
    assert "There is no one set of" in section(text, "Model details")
    assert cells(section(text, "Figures"), "AUROC")[3] == "0.021"
    assert "Each figure is the mean over 3 repetitions." in section(text, "Figures")
    assert len(re.findall(r"^\| \d", section(text, "Variation"), re.MULTILINE)) == 6
    assert len(re.findall(r"^\| \d", section(text, "Calibration and threshold"), re.MULTILINE)) == 3
    assert "Of the first repetition" in section(text, "Errors")
    assert "the backbone stays as it was" in section(text, "Training")
    assert "the loss is not weighted" in section(text, "Training")
    assert "vgg16" not in text  # the default of a setting that the cross-validation overrides
    assert "- protocol: cross-validated by subject, 2 folds × 3 seeds\n" in text
    assert "is empty" not in text


@pytest.mark.parametrize(("kind", "words"), [("baseline", "A baseline, measured"), ("ensemble", "An ensemble: the mean")])
def test_baselines_and_ensembles_need_no_run(run, kind, words):
    for name in ("run.json", "decision.json", "foreign.csv"):
        (run / name).unlink()
    write_json(run / "metrics.json", metrics(manifest(), kind=kind))
    text = card(run)
    assert words in section(text, "Model details")
    assert "Absent" not in text


def test_optimistic_split_is_said_to_be_too_high(run):
    write_json(run / "metrics.json", metrics(manifest(), optimistic=True))
    assert "the figures are too high for new patients" in section(card(run), "Limits")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_names(tmp_path, name):
    """Rendered by a Markdown parser with HTML switched on: no tag, no link, no further heading, no broken table."""
    data = manifest({"HEM": name}, subject=name)
    run = build(tmp_path / "results", data, subject=name)
    for text in (card(run), write_data_sheet(tmp_path / "results").read_text(encoding="utf-8")):
        tokens = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").parse(text)
        inner = [child for token in tokens for child in token.children or []]
        types = {token.type for token in (*tokens, *inner)}
        assert not types & {"html_block", "html_inline", "link_open", "image", "em_open", "s_open"}, types
        assert headings(text).count("Limits") <= 1
        words = " ".join("".join(child.content for child in token.children or []) for token in tokens if token.type == "inline")
        assert plain(name) in words
        assert "\x1b" not in text
        assert "\u202e" not in text


def test_no_path_of_the_machine_is_written(run):
    text = card(run) + write_data_sheet(run.parents[1]).read_text(encoding="utf-8")
    assert "Data set: cells, layout flat." in text
    assert cells(text, "weights_dir") == ["weights_dir", "weights"]
    for part in ("jane", "private", "/home", str(run.parents[2])):
        assert part not in text

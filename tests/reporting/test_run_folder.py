"""What lies around a run: what is absent is named, what is of other data is left out."""

from __future__ import annotations

import pytest

from leukolens.artifacts import write_json
from leukolens.errors import ArtifactError
from leukolens.reporting.checklists import HEADINGS
from leukolens.reporting.model_card import write_model_card
from reporting.example_run import card, headings, manifest, metrics, rewrite, section, splits


@pytest.mark.parametrize(
    ("name", "sentence", "heading", "empty"),
    [
        ("metrics.json", "metrics.json: no figure is reported.", "Figures", "No figures: metrics.json is absent."),
        ("foreign.csv", "foreign.csv: nothing is known of images that are no cells.", "Data", None),
        ("../analysis.json", "analysis.json: no comparison with baselines", "Baselines", "Not reported"),
        ("../splits.parquet", "splits.parquet: the audit of the split is not shown.", "Protocol", "How the images were"),
        ("../../manifest.parquet", "manifest.parquet: the data and their flow are not", "Data", "Not described here"),
    ],
)
def test_absent_files_are_named_and_nothing_is_invented(run, name, sentence, heading, empty):
    (run / name).unlink()
    text = card(run)
    assert f"- {sentence}" in text.split("## Model details")[0]
    assert empty is None or empty in section(text, heading)
    assert headings(text) == [*HEADINGS, "Reporting checklists"]


def test_items_of_an_empty_section_are_open_and_not_covered(run):
    (run.parents[1] / "manifest.parquet").unlink()
    claim = card(run).split("### CLAIM")[1].split("### STARD")[0]
    assert 'Covered under "Data"' not in claim
    assert '- [ ] "Data" is empty: 7 sources of the data; 8 inclusion and exclusion; 12 missing data; 35 numbers' in claim


def test_scores_of_another_tool_make_a_card_that_says_what_is_not_known(tmp_path):
    unknown = dict.fromkeys(("kind", "optimistic", "split_label", "manifest_hash"))
    values = metrics(manifest(), decisions=[], display_name="scores", **unknown)
    old = ("intervals", "repeats", "folds", "calibration", "subject_level", "subgroups", "abstention")
    for name in old:
        del values["sides"]["test"][name]
    write_json(tmp_path / "there" / "metrics.json", values)
    manifest().save(tmp_path / "manifest.parquet")  # of something else: no hash ties it to the scores
    text = card(tmp_path / "there")
    for name in ("run.json", "decision.json", "analysis.json", "foreign.csv", "manifest.parquet", "splits.parquet"):
        assert f"- {name}: " in text
    assert "Not known: the scores came without a run of leukolens." in section(text, "Model details")
    assert "No interval was computed, and the reason is not on record." in section(text, "Intervals")
    assert "How training and test images were separated is not known" in section(text, "Limits")
    assert "another place than the training images is not known" in section(text, "Limits")
    assert 'Covered under "Intervals"' not in text
    assert "Not described here" in section(text, "Data")


def test_a_manifest_that_is_handed_over_describes_scores_without_a_hash(tmp_path):
    write_json(tmp_path / "there" / "metrics.json", metrics(manifest(), kind=None, manifest_hash=None))
    manifest().save(tmp_path / "results" / "manifest.parquet")
    assert "Data set: cells, layout flat." in section(card(tmp_path / "there", tmp_path / "results"), "Data")


def test_data_and_splits_of_another_version_are_left_out(run):
    other = manifest({"HEM": "normal"})
    other.save(run.parents[1] / "manifest.parquet")
    splits(other).save(run.parent / "splits.parquet")
    text = card(run)
    assert "- manifest.parquet: the one found describes other data (its hash differs) and is left out." in text
    assert "- splits.parquet: the one found splits other data (its hash differs) and is left out." in text
    assert " normal " not in text


def test_analysis_of_other_models_says_nothing_about_this_one(run):
    rewrite(run.parent / "analysis.json", models=[{"model": "vgg16", "display_name": "VGG16", "value": 0.99}])
    text = card(run)
    assert "- analysis.json: no comparison with baselines" in text
    assert "VGG16" not in text


def test_a_folder_with_nothing_to_report_is_refused(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        write_model_card(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds nothing to write a model card from.\n"
        "  expected: run.json, crossval.json or metrics.json\n"
        "  received: none of them\n"
        "  remedy:   run `leukolens train`, or `leukolens evaluate` on the scores, and write the card again"
    )
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_refused_by_name(run):
    (run / "foreign.csv").write_text("kind,image\nnoise,n0\n")
    with pytest.raises(ArtifactError, match=r"foreign\.csv cannot be used\.[\s\S]*no column refused"):
        write_model_card(run)
    (run / "metrics.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"metrics\.json cannot be read"):
        write_model_card(run)
    assert not (run / "model_card.md").exists()

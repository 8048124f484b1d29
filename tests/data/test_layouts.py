"""One test per layout of FACTS, and each way in which a folder or its label table can be wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leukolens.data.layouts import Layout, Row, find_layout, shown
from leukolens.errors import LayoutError, SettingsError

TABLE = "C-NMC_test_prelim_phase_data_labels.csv"
HEADER = "Patient_ID,new_names,labels\n"


def touch(root: Path, *paths: str) -> Path:
    """Make empty files: layouts are told by names alone."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def facts(layout: Layout) -> dict[str, tuple[str | None, str | None, str | None, str]]:
    return {row.image: (row.label, row.subject, row.fold, row.part) for row in layout.rows}


def kaggle(root: Path, table: str = HEADER + "UID_57_29_1_all.bmp,1.bmp,1\nUID_H7_1_1_hem.bmp,2.bmp,0\n") -> Path:
    touch(
        root,
        "training_data/fold_0/all/UID_1_2_3_all.bmp",
        "training_data/fold_2/hem/UID_h3_5_1_hem.bmp",
        "validation_data/C-NMC_test_prelim_phase_data/1.bmp",
        "testing_data/C-NMC_test_final_phase_data/1.bmp",
    )
    (root / "validation_data" / TABLE).write_text(table)
    return root


def test_kaggle(tmp_path: Path) -> None:
    layout = find_layout(kaggle(tmp_path / "C-NMC_Leukemia"))
    assert layout.name == "Kaggle"
    assert (layout.classes, layout.positive) == (("HEM", "ALL"), ("ALL",))
    assert facts(layout) == {
        "testing_data/C-NMC_test_final_phase_data/1.bmp": (None, None, None, "final"),
        "training_data/fold_0/all/UID_1_2_3_all.bmp": ("ALL", "1", "fold_0", "train"),
        "training_data/fold_2/hem/UID_h3_5_1_hem.bmp": ("HEM", "H3", "fold_2", "train"),
        "validation_data/C-NMC_test_prelim_phase_data/1.bmp": ("ALL", "57", None, "preliminary"),
    }
    assert (layout.csv_rows_without_image, layout.images_without_csv_row) == (1, 0)
    assert layout.set_aside == ()
    assert not layout.synthetic


@pytest.mark.parametrize("package", ["PKG - C-NMC 2019", "C-NMC 2019 (PKG)"])
def test_tcia_with_doubled_folders(tmp_path: Path, package: str) -> None:
    root = touch(
        tmp_path / package,
        "C-NMC_training_data/fold_0/fold_0/all/UID_1_2_3_all.bmp",
        "C-NMC_training_data/fold_1/hem/UID_H1_2_3_hem.bmp",
        "C-NMC_test_prelim_phase_data/C-NMC_test_prelim_phase_data/1.bmp",
        "C-NMC_test_final_phase_data/C-NMC_test_final_phase_data/1.bmp",
    )
    (root / "C-NMC_test_prelim_phase_data" / TABLE).write_text(HEADER + "UID_57_29_1_all.bmp,1.bmp,1\n")
    layout = find_layout(tmp_path)
    assert (layout.name, layout.root) == ("TCIA", root)
    assert facts(layout) == {
        "C-NMC_training_data/fold_0/fold_0/all/UID_1_2_3_all.bmp": ("ALL", "1", "fold_0", "train"),
        "C-NMC_training_data/fold_1/hem/UID_H1_2_3_hem.bmp": ("HEM", "H1", "fold_1", "train"),
        "C-NMC_test_prelim_phase_data/C-NMC_test_prelim_phase_data/1.bmp": ("ALL", "57", None, "preliminary"),
        "C-NMC_test_final_phase_data/C-NMC_test_final_phase_data/1.bmp": (None, None, None, "final"),
    }
    assert layout.set_aside == ()


def test_codalab(tmp_path: Path) -> None:
    touch(tmp_path, "fold_0/all/UID_1_2_3_all.bmp", "fold_1/hem/UID_H1_2_3_hem.bmp", "phase2/1.bmp", "phase3/1.bmp")
    (tmp_path / "phase2.csv").write_text(HEADER + "UID_H9_2_1_hem.bmp,1.bmp,0\n")
    layout = find_layout(tmp_path)
    assert layout.name == "CodaLab"
    assert facts(layout) == {
        "fold_0/all/UID_1_2_3_all.bmp": ("ALL", "1", "fold_0", "train"),
        "fold_1/hem/UID_H1_2_3_hem.bmp": ("HEM", "H1", "fold_1", "train"),
        "phase2/1.bmp": ("HEM", "H9", None, "preliminary"),
        "phase3/1.bmp": (None, None, None, "final"),
    }
    assert "phase2.csv" in [entry.path for entry in layout.listing]


def test_flat_in_any_case_and_format(tmp_path: Path) -> None:
    touch(tmp_path, "All/UID_1_2_3_all.PNG", "HEM/UID_H1_2_3_hem.tiff", "HEM/no subject.jpeg")
    layout = find_layout(tmp_path)
    assert (layout.name, layout.classes) == ("C-NMC flat", ("HEM", "ALL"))
    assert facts(layout) == {
        "All/UID_1_2_3_all.PNG": ("ALL", "1", None, "train"),
        "HEM/UID_H1_2_3_hem.tiff": ("HEM", "H1", None, "train"),
        "HEM/no subject.jpeg": ("HEM", None, None, "train"),
    }


def test_class_folders_keep_their_names_and_the_order_of_the_positive(tmp_path: Path) -> None:
    touch(tmp_path, "Benign/a.jpg", "Early/b.jpg", "Pre/c.jpg", "Pro/deep/d.webp", "README.txt")
    layout = find_layout(tmp_path, positive=("Pro", "early"))
    assert layout.name == "class folders"
    assert (layout.classes, layout.positive) == (("Benign", "Pre", "Pro", "Early"), ("Pro", "Early"))
    assert facts(layout)["Pro/deep/d.webp"] == ("Pro", None, None, "train")
    assert layout.set_aside == ()
    assert find_layout(tmp_path).positive == ()


def test_positive_may_be_hem(tmp_path: Path) -> None:
    layout = find_layout(kaggle(tmp_path), positive=("hem",))
    assert (layout.classes, layout.positive) == (("ALL", "HEM"), ("HEM",))


@pytest.mark.parametrize(
    ("given", "root", "name"),
    [
        (".", "C-NMC_Leukemia", "Kaggle"),
        ("C-NMC_Leukemia/training_data", "C-NMC_Leukemia/training_data", "Kaggle"),
        ("C-NMC_Leukemia/validation_data", "C-NMC_Leukemia/validation_data", "Kaggle"),
    ],
)
def test_folder_above_and_parts_below(tmp_path: Path, given: str, root: str, name: str) -> None:
    kaggle(tmp_path / "C-NMC_Leukemia")
    touch(tmp_path / "C-NMC_Leukemia/validation_data/C-NMC_test_prelim_phase_data", "2.bmp")
    layout = find_layout(tmp_path / given)
    assert (layout.root, layout.name) == ((tmp_path / root).resolve(), name)


def test_two_levels_above(tmp_path: Path) -> None:
    kaggle(tmp_path / "archive" / "C-NMC_Leukemia")
    assert find_layout(tmp_path).root == tmp_path / "archive" / "C-NMC_Leukemia"


def test_one_official_fold_is_named_after_the_given_folder(tmp_path: Path) -> None:
    touch(tmp_path / "fold_2", "all/UID_1_2_3_all.bmp", "hem/UID_H1_2_3_hem.bmp")
    assert {row.fold for row in find_layout(tmp_path / "fold_2").rows} == {"fold_2"}


def test_preliminary_folder_given_itself(tmp_path: Path) -> None:
    kaggle(tmp_path)
    folder = touch(tmp_path / "validation_data/C-NMC_test_prelim_phase_data", "2.bmp")
    layout = find_layout(folder)
    assert facts(layout) == {
        "1.bmp": ("ALL", "57", None, "preliminary"),
        "2.bmp": ("HEM", "H7", None, "preliminary"),
    }
    assert f"../{TABLE}" in [entry.path for entry in layout.listing]


def test_several_data_sets(tmp_path: Path) -> None:
    kaggle(tmp_path / "a" / "C-NMC_Leukemia")
    touch(tmp_path / "b", "Benign/a.jpg", "Pro/b.jpg")
    with pytest.raises(LayoutError) as caught:
        find_layout(tmp_path)
    assert caught.value.what == f"{tmp_path} holds more than one data set."
    assert caught.value.received == f"{tmp_path}/a/C-NMC_Leukemia (Kaggle); {tmp_path}/b (class folders)"


def test_pictures_beside_the_data_set_are_no_classes(tmp_path: Path) -> None:
    kaggle(tmp_path / "C-NMC_Leukemia")
    touch(tmp_path, "figures/a.png", "slides/b.png")
    assert find_layout(tmp_path).root == tmp_path / "C-NMC_Leukemia"


def test_unknown_layout_says_what_it_knows_and_saw(tmp_path: Path) -> None:
    touch(tmp_path, "loose.png", "notes.txt", "one/a.png", "one/b.png", "two/c.txt", "two/deep/d.txt", ".git/x")
    with pytest.raises(LayoutError) as caught:
        find_layout(tmp_path)
    assert caught.value.what == f"{tmp_path} is laid out in no way that leukolens knows."
    assert [line.strip().split(":")[0] for line in caught.value.expected.strip().splitlines()] == [
        "Kaggle", "TCIA", "CodaLab", "C-NMC folds", "C-NMC flat", "class folders",
    ]  # fmt: skip
    assert caught.value.received == (
        "one/ (2 images); two/ (1 folders, 1 other files); at the top: 3 folders, 1 images, 1 other files"
    )


@pytest.mark.parametrize(("name", "received"), [("absent", "nothing at that path"), ("file.zip", "a file")])
def test_no_folder(tmp_path: Path, name: str, received: str) -> None:
    touch(tmp_path, "file.zip")
    with pytest.raises(LayoutError) as caught:
        find_layout(tmp_path / name)
    assert (caught.value.what, caught.value.received) == (f"{tmp_path / name} is not a folder.", received)


def test_one_class_only(tmp_path: Path) -> None:
    touch(tmp_path, "all/UID_1_2_3_all.bmp")
    with pytest.raises(LayoutError) as caught:
        find_layout(tmp_path)
    assert caught.value.what == f"{tmp_path} holds images of one class at most."
    assert caught.value.received == "ALL only"


def test_final_set_alone_has_no_label(tmp_path: Path) -> None:
    folder = touch(tmp_path / "C-NMC_test_final_phase_data", "1.bmp")
    with pytest.raises(LayoutError, match="received: no labelled image"):
        find_layout(folder)


@pytest.mark.parametrize(
    ("positive", "what", "received"),
    [
        ((), "It is not said which class is positive.", "no name"),
        (("Blast",), "There is no class 'Blast'.", "Blast"),
        (("Benign", "Pro"), "Every class is named positive.", "Benign, Pro"),
    ],
)
def test_positive_that_cannot_be(tmp_path: Path, positive: tuple[str, ...], what: str, received: str) -> None:
    touch(tmp_path, "Benign/a.jpg", "Pro/b.jpg")
    with pytest.raises(SettingsError) as caught:
        find_layout(tmp_path, positive)
    assert (caught.value.what, caught.value.received) == (what, received)
    assert caught.value.expected == "one or more, not all, of the classes Benign, Pro"
    assert caught.value.remedy == "name the class or classes that mean disease: --positive NAME[,NAME…]"


def test_name_against_folder(tmp_path: Path) -> None:
    touch(kaggle(tmp_path), "training_data/fold_1/all/UID_H4_1_1_hem.bmp")
    layout = find_layout(tmp_path)
    assert [vars(each) for each in layout.set_aside] == [
        {
            "image": "training_data/fold_1/all/UID_H4_1_1_hem.bmp",
            "reason": "label_conflict",
            "detail": "the folder says ALL, the name says HEM",
        }
    ]


def test_table_against_itself(tmp_path: Path) -> None:
    layout = find_layout(kaggle(tmp_path, HEADER + "UID_57_29_1_all.bmp,1.bmp,0\n"))
    assert [(each.reason, each.detail) for each in layout.set_aside] == [
        ("label_conflict", "the label table says HEM, the name says ALL")
    ]


def test_preliminary_image_without_a_row_stays_unlabelled(tmp_path: Path) -> None:
    touch(kaggle(tmp_path), "validation_data/C-NMC_test_prelim_phase_data/999.bmp")
    layout = find_layout(tmp_path)
    row = Row("validation_data/C-NMC_test_prelim_phase_data/999.bmp", None, None, None, "preliminary")
    assert row in layout.rows
    assert layout.images_without_csv_row == 1


def test_preliminary_images_found_by_stem_or_original_name(tmp_path: Path) -> None:
    folder = touch(tmp_path, "fold_0/all/a.bmp", "fold_0/hem/b.bmp") / "phase2"
    touch(folder, "1.jpg", "UID_H7_1_1_hem.bmp", "3.copy.bmp")
    table = HEADER + "UID_57_29_1_all.bmp,1.bmp,1\nUID_H7_1_1_hem.bmp,2.bmp,0\nUID_58_1_1_all.bmp,3.bmp,1\n"
    (folder / "labels from a friend.csv").write_text("\ufeff" + table.replace("\n", "\r\n"), encoding="utf-8")
    layout = find_layout(tmp_path)
    found = facts(layout)
    assert found["phase2/1.jpg"] == ("ALL", "57", None, "preliminary")
    assert found["phase2/UID_H7_1_1_hem.bmp"] == ("HEM", "H7", None, "preliminary")
    assert found["phase2/3.copy.bmp"] == (None, None, None, "preliminary")
    assert (layout.csv_rows_without_image, layout.set_aside) == (1, ())


@pytest.mark.parametrize(
    ("text", "row", "expected", "received"),
    [
        ("a,b\n", 1, "columns Patient_ID, new_names, labels", "a, b"),
        (HEADER + "UID_1_1_1_all.bmp,1.bmp,1\nUID_1_1_2_all.bmp,2.bmp,7\n", 3, "labels 1 (ALL) or 0 (HEM)", "'7'"),
        (HEADER + "UID_1_1_1_all.bmp,1.bmp\n", 2, "labels 1 (ALL) or 0 (HEM)", "''"),
        (HEADER + "nobody,1.bmp,1\n", 2, "Patient_ID like UID_57_29_1_all.bmp", "'nobody'"),
        (HEADER + "UID_1_1_1_all.bmp,,1\n", 2, "new_names like 1.bmp", "an empty cell"),
        (
            HEADER + "UID_1_1_1_all.bmp,1.bmp,1\nUID_1_1_2_all.bmp,1.bmp,1\n",
            3,
            "each image once",
            "1.bmp, also in row 2",
        ),
    ],
)
def test_malformed_table_names_file_and_row(tmp_path: Path, text: str, row: int, expected: str, received: str) -> None:
    with pytest.raises(LayoutError) as caught:
        find_layout(kaggle(tmp_path, text))
    assert caught.value.what == f"{tmp_path / 'validation_data' / TABLE}, row {row}, cannot be read."
    assert (caught.value.expected, caught.value.received) == (expected, received)


def test_table_that_is_no_text(tmp_path: Path) -> None:
    kaggle(tmp_path)
    (tmp_path / "validation_data" / TABLE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LayoutError, match="expected: readable text in UTF-8"):
        find_layout(tmp_path)


def test_two_tables_must_agree(tmp_path: Path) -> None:
    kaggle(tmp_path)
    table = tmp_path / "validation_data" / TABLE
    (tmp_path / TABLE).write_bytes(table.read_bytes())
    assert find_layout(tmp_path).csv_rows_without_image == 1
    (tmp_path / TABLE).write_text(HEADER)
    with pytest.raises(LayoutError) as caught:
        find_layout(tmp_path)
    assert caught.value.what == f"{tmp_path} holds label tables that differ."


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    touch(kaggle(tmp_path), "training_data/fold_0/all/Thumbs.db", "training_data/.DS_Store", "notes.txt", ".hidden/a.bmp",
          "training_data/fold_0/all/._UID_1_2_3_all.bmp", "training_data/fold_0/hem/README",
          "training_data/fold_0/hem/.ipynb_checkpoints/UID_H1_1_1_hem-checkpoint.png")  # fmt: skip
    assert [(each.image, each.reason, each.detail) for each in find_layout(tmp_path).set_aside] == [
        ("training_data/.DS_Store", "not_an_image", "a hidden file"),
        ("training_data/fold_0/all/._UID_1_2_3_all.bmp", "not_an_image", "a hidden file"),
        ("training_data/fold_0/all/Thumbs.db", "not_an_image", "suffix .db"),
        ("training_data/fold_0/hem/.ipynb_checkpoints/UID_H1_1_1_hem-checkpoint.png", "not_an_image", "a hidden file"),
        ("training_data/fold_0/hem/README", "not_an_image", "no suffix"),
    ]


def test_odd_names(tmp_path: Path) -> None:
    touch(tmp_path, "all/UID_1_2_3_all.bmp", "hem/two words\nand a line.bmp", "hem/é.bmp")
    (tmp_path / "hem" / os.fsdecode(b"caf\xe9.bmp")).touch()
    layout = find_layout(tmp_path)
    assert [row.image for row in layout.rows][1:] == ["hem/two words\nand a line.bmp", "hem/é.bmp"]
    assert [(each.image, each.reason) for each in layout.set_aside] == [("hem/caf\\xe9.bmp", "bad_name")]
    assert shown("two words\nand a line.bmp") == "two words\\nand a line.bmp"


def test_links_are_followed_but_not_round_in_circles(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "UID_1_2_3_all.bmp")
    root = touch(tmp_path / "data", "hem/UID_H1_2_3_hem.bmp")
    (root / "all").symlink_to(tmp_path / "elsewhere")
    (root / "hem" / "again").symlink_to(root)
    layout = find_layout(root)
    assert [row.image for row in layout.rows] == ["all/UID_1_2_3_all.bmp", "hem/UID_H1_2_3_hem.bmp"]
    assert [(each.image, each.reason) for each in layout.set_aside] == [("hem/again", "link_loop")]


def test_link_to_the_root_is_no_class(tmp_path: Path) -> None:
    touch(tmp_path, "Benign/a.jpg", "Pro/b.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    layout = find_layout(tmp_path, ("Pro",))
    assert layout.classes == ("Benign", "Pro")
    assert [(each.image, each.reason) for each in layout.set_aside] == [("loop", "link_loop")]


def test_same_data_set_through_a_link_is_one(tmp_path: Path) -> None:
    kaggle(tmp_path / "C-NMC_Leukemia")
    (tmp_path / "latest").symlink_to(tmp_path / "C-NMC_Leukemia")
    assert find_layout(tmp_path).root == tmp_path / "C-NMC_Leukemia"


def test_order_on_disk_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kaggle(tmp_path)
    touch(tmp_path, *(f"training_data/fold_1/all/UID_{number}_1_1_all.bmp" for number in range(5, 30)))
    # "-" sorts before "/": path order is not the order in which folders are walked.
    touch(tmp_path, "training_data/fold_0/all-more.bmp")
    expected = find_layout(tmp_path)
    assert [row.image for row in expected.rows] == sorted(row.image for row in expected.rows)
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(sorted(listed(folder), reverse=True)))
    assert find_layout(tmp_path) == expected


def test_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kaggle(tmp_path)
    closed = tmp_path / "training_data" / "fold_1"
    touch(closed, "all/UID_9_1_1_all.bmp")
    listed = Path.iterdir

    def refuse(folder: Path) -> object:
        if folder == closed:
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert [(each.image, each.reason) for each in find_layout(tmp_path).set_aside] == [
        ("training_data/fold_1", "no_permission")
    ]


@pytest.mark.parametrize("given", [".", "training_data", "training_data/fold_0"])
def test_marker_of_synthetic_data(tmp_path: Path, given: str) -> None:
    touch(tmp_path, "SYNTHETIC.json", "training_data/fold_0/all/UID_1_1_1_all.bmp",
          "training_data/fold_0/hem/UID_H1_1_1_hem.bmp")  # fmt: skip
    layout = find_layout(tmp_path / given)
    assert layout.synthetic
    assert layout.set_aside == ()


def test_empty_class_folder_is_no_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "Benign/a.jpg", "Pro/b.jpg", "Empty/.DS_Store")
    assert find_layout(tmp_path, ("Pro",)).classes == ("Benign", "Pro")
    assert caplog.messages == ["index: the folder Empty holds no image and is no class"]


SAMPLE = Path(__file__).parents[2].parent / "shared" / "data" / "c-nmc-sample" / "C-NMC_Leukemia"


@pytest.mark.real
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the real sample ../shared/data/c-nmc-sample is not here")
def test_real_sample() -> None:
    layout = find_layout(SAMPLE)
    parts = [row.part for row in layout.rows]
    assert {part: parts.count(part) for part in parts} == {"train": 330, "preliminary": 6, "final": 2}
    assert layout.csv_rows_without_image == 1867 - 6
    assert "H3" in {row.subject for row in layout.rows}

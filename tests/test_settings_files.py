"""Settings files of strangers: plain values or an error, whatever they hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leukolens.errors import SettingsError
from leukolens.settings_files import read_settings_file, shortened

LAUGHS = "\n".join(["a0: &a0 [ha]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))])


def refusal(path: Path) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        read_settings_file(path)
    assert caught.value.what == f"{path} holds no settings."
    assert caught.value.expected == "a YAML mapping of setting names to values, at most 1 MiB"
    return caught.value


def test_a_mapping_is_read(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("seed: 3\ntrain: {epochs: 2}\n")
    assert read_settings_file(tmp_path / "s.yaml") == {"seed": 3, "train": {"epochs": 2}}


@pytest.mark.parametrize(
    "text",
    ["seed: !!python/object/apply:os.getcwd []", "!!python/object/new:os.system [true]", "seed: " + "[" * 5000,
     "seed: !!int ''",
     "seed: !!float ''", "seed: !!bool perhaps", "seed: 2001-99-99", "seed: !!timestamp soon",
     "? [a]\n: 1",
     "seed: " + "9" * 10_000, "- a", "", "\0"],
)  # fmt: skip
def test_what_is_no_mapping_of_plain_values_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    assert len(refusal(path).received) < 400


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    assert [refusal(tmp_path / name).received for name in ("pipe", "endless", ".")] == ["a folder, device or pipe"] * 3
    assert refusal(tmp_path / "none").received == "nothing at that path"


def test_a_file_of_more_than_a_mebibyte_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    assert refusal(tmp_path / "s.yaml").received == "a file of 1,048,577 bytes"


def test_values_that_stand_for_gigabytes_are_shown_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(LAUGHS)
    read = read_settings_file(tmp_path / "s.yaml")
    assert 100 < len(shortened(read["a11"])) < 5000

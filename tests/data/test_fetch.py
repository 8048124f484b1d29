"""The data set is called finished only when it is what was published; Kaggle is a server on this machine here."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import json
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from leukolens import extras
from leukolens.data import phantom_plan
from leukolens.data.fetch import CREDENTIALS, PAGE, FetchedData, fetch_cnmc
from leukolens.data.layouts import SYNTHETIC_MARKER
from leukolens.data.phantom import phantom
from leukolens.errors import FetchError, SettingsError
from leukolens.fetching import fetch
from leukolens.settings import PhantomSettings
from small_composition import SMALL

kaggle_env = pytest.importorskip("kagglesdk.kaggle_env", reason="the extra fetch is not installed")

SHARED = Path(__file__).parents[3] / "shared" / "data"
LISTING = SHARED / "c-nmc-2019-manifest.csv.gz"
LABELS = "validation_data/C-NMC_test_prelim_phase_data_labels.csv"
NAME = "C-NMC_Leukemia"


@dataclass
class Kaggle:
    """What the server gives and what it was asked."""

    archive: bytes = b""
    status: int = 200
    cut_after: int | None = None
    """The first answer with the archive ends after so many bytes, as where a connection breaks."""
    ranges: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)


class _Handler(BaseHTTPRequestHandler):
    kaggle: Kaggle

    def log_message(self, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.kaggle.tokens.add(self.headers.get("Authorization", ""))
        if self.kaggle.status != 200:
            self._answer(self.kaggle.status, b'{"message": "no"}', {"Content-Type": "application/json"})
        elif self.path.endswith("/GetDataset"):
            self._answer(200, json.dumps({"currentVersionNumber": 2}).encode(), {"Content-Type": "application/json"})
        else:
            self._answer(302, b"", {"Location": "/archive.zip"})

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.kaggle.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-") or 0) if asked else 0
        body, whole = self.kaggle.archive[start:], self.kaggle.archive
        digest = base64.b64encode(hashlib.md5(whole, usedforsecurity=False).digest()).decode()
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/zip", "x-goog-hash": f"md5={digest}"}
        cut, self.kaggle.cut_after = self.kaggle.cut_after, None
        self._answer(206 if asked else 200, body if cut is None else body[:cut], headers, len(body))

    def _answer(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body) if length is None else length)}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):  # who asks again for the rest does not read this
            self.wfile.write(body)


@pytest.fixture(autouse=True)
def room_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """On whatever disk the tests run: the room that is asked for is that of the published set."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, 10**12))


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Kaggle]:
    """A stand-in for Kaggle's API, which kagglehub calls for the time of a test; nobody's credentials are read."""
    state = Kaggle()
    handler = type("Handler", (_Handler,), {"kaggle": state})
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in [name for name in os.environ if name.startswith("KAGGLE")]:
        monkeypatch.delenv(name)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        address = f"http://127.0.0.1:{listening.server_address[1]}"
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, address)
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of the composition SMALL under its published name. Read only."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(phantom_plan, "COMPOSITIONS", {"c-nmc-2019": SMALL})
        drawn = phantom(folder, PhantomSettings(like="c-nmc-2019"))
    for marker in drawn.rglob(SYNTHETIC_MARKER):
        marker.unlink()
    return drawn.rename(folder / NAME)


def zipped(folder: Path, without: str = "") -> bytes:
    """A zip archive of a folder under its name, without the files whose path ends so."""
    path = folder.parent / "archive.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in sorted(folder.rglob("*")):
            if not without or not str(file).endswith(without):
                archive.write(file, file.relative_to(folder.parent))
    found = path.read_bytes()
    path.unlink()
    return found


@pytest.fixture(scope="module")
def archive(published: Path) -> bytes:
    """The data set as Kaggle hands it out."""
    return zipped(published)


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_data_set_is_downloaded_checked_and_put_in_place(
    kaggle: Kaggle, published: Path, archive: bytes, tmp_path: Path
) -> None:
    kaggle.archive = archive
    out = tmp_path / "new" / "data"
    found = fetch_cnmc(out, SMALL)
    # 69 training, 12 preliminary and 8 final cells; 13 subjects of the folds and 3 of the preliminary set.
    assert found == FetchedData(out / NAME, images=89, subjects=16, version=2, is_new=True)
    assert names_in(out / NAME) == names_in(published)
    assert [path.name for path in out.iterdir()] == [NAME]
    assert found.summary_lines() == [
        "C-NMC 2019, version 2 on Kaggle: 89 images, 16 labelled subjects, as published",
        f"next: leukolens index {out / NAME} --out results",
    ]
    assert "KAGGLEHUB_CACHE" not in os.environ
    assert not (tmp_path / "home").exists()


def test_what_is_there_is_checked_and_not_downloaded_again(kaggle: Kaggle, published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / NAME)
    found = fetch_cnmc(tmp_path, SMALL)
    assert (found.is_new, found.version, found.images) == (False, None, 89)
    assert (kaggle.ranges, kaggle.tokens) == ([], set())


def test_broken_download_goes_on_where_it_stopped(kaggle: Kaggle, archive: bytes, tmp_path: Path) -> None:
    kaggle.archive = archive
    kaggle.cut_after = len(kaggle.archive) // 2
    with pytest.raises(FetchError, match="cannot be downloaded") as caught:
        fetch_cnmc(tmp_path, SMALL)
    assert caught.value.remedy.startswith("give the same command again, it goes on where it stopped")
    assert not (tmp_path / NAME).exists()
    part = next((tmp_path / ".download").rglob("*.archive"))
    kept = part.stat().st_size
    assert 0 < kept <= len(kaggle.archive) // 2
    kaggle.ranges.clear()
    assert fetch_cnmc(tmp_path, SMALL).is_new
    assert kaggle.ranges == ["", f"bytes={kept}-"]
    assert not (tmp_path / ".download").exists()


def test_broken_unpacking_is_begun_again(kaggle: Kaggle, archive: bytes, tmp_path: Path) -> None:
    """Where the program ends while it unpacks, the archive is whole and the folder is not."""
    kaggle.archive = archive
    waiting = tmp_path / ".download" / "datasets" / "andrewmvd" / "leukemia-classification"
    (waiting / "versions" / "2" / NAME / "training_data").mkdir(parents=True)
    (waiting / "2.archive").write_bytes(kaggle.archive)
    assert fetch_cnmc(tmp_path, SMALL).images == 89
    assert kaggle.ranges == [""]


def test_missing_cell_is_named_and_nothing_is_called_finished(kaggle: Kaggle, published: Path, tmp_path: Path) -> None:
    lost = next(path for path in sorted(published.rglob("UID_51_*")) if path.suffix == ".bmp")
    kaggle.archive = zipped(published, without=lost.name)
    with pytest.raises(FetchError) as caught:
        fetch_cnmc(tmp_path, SMALL)
    folder = tmp_path / ".download/datasets/andrewmvd/leukemia-classification/versions/2" / NAME
    assert caught.value.what == f"{folder} is not C-NMC 2019 as it was published."
    assert caught.value.received == "fold_1, ALL, subject 51: 11 cells, 12 expected"
    assert caught.value.remedy.startswith("delete that folder and give the same command to download it again")
    assert not (tmp_path / NAME).exists()
    assert folder.is_dir()


def test_differences_are_counted_where_there_are_many(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / NAME)
    shutil.rmtree(tmp_path / NAME / "training_data" / "fold_2")
    with pytest.raises(FetchError) as caught:
        fetch_cnmc(tmp_path, SMALL)
    # The six subjects of that fold.
    assert caught.value.received.count(" cells, ") == 6
    assert "fold_2, HEM, subject H4: 0 cells, 3 expected" in caught.value.received
    assert caught.value.remedy.startswith("download it again elsewhere")
    with pytest.raises(FetchError) as caught:
        fetch_cnmc(tmp_path)
    assert re.search(r"; and \d+ more$", caught.value.received)


def test_synthetic_cells_and_empty_files_are_not_believed(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / NAME)
    (tmp_path / NAME / SYNTHETIC_MARKER).write_text("{}")
    final = "testing_data/C-NMC_test_final_phase_data/4.bmp"
    (tmp_path / NAME / final).write_bytes(b"")
    with pytest.raises(FetchError) as caught:
        fetch_cnmc(tmp_path, SMALL)
    assert caught.value.received == f"these cells are synthetic; empty file: {final}"


def test_another_layout_is_named(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "training_data" / "fold_0", tmp_path / NAME)
    with pytest.raises(FetchError) as caught:
        fetch_cnmc(tmp_path, SMALL)
    assert caught.value.received.startswith("the layout is that of C-NMC flat, not of Kaggle's download; final test: 0 images,")
    shutil.rmtree(tmp_path / NAME)
    (tmp_path / NAME).mkdir()
    with pytest.raises(FetchError, match="is not C-NMC 2019 as it was published"):
        fetch_cnmc(tmp_path, SMALL)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusal_says_how_to_get_in_and_how_to_do_without(kaggle: Kaggle, tmp_path: Path, status: int) -> None:
    kaggle.status = status
    with pytest.raises(FetchError) as caught:
        fetch_cnmc(tmp_path, SMALL)
    assert caught.value.received.startswith(f"{status} Client Error.")
    assert CREDENTIALS in caught.value.remedy
    assert f"from {PAGE}, unpack it so that {tmp_path / NAME}/training_data is there" in caught.value.remedy
    assert not (tmp_path / NAME).exists()


def test_token_of_the_environment_is_sent(kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "a-token")
    kaggle.status = 404
    with pytest.raises(FetchError) as caught:
        fetch_cnmc(tmp_path, SMALL)
    assert kaggle.tokens == {"Bearer a-token"}
    assert "a-token" not in str(caught.value)


def test_damaged_archive_is_an_error(kaggle: Kaggle, tmp_path: Path) -> None:
    kaggle.archive = b"this is no archive"
    with pytest.raises(FetchError, match=r"Unsupported archive type"):
        fetch_cnmc(tmp_path, SMALL)
    assert not (tmp_path / NAME).exists()


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch, kaggle: Kaggle, tmp_path: Path) -> None:
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, "http://127.0.0.1:9")
    with pytest.raises(FetchError) as caught:
        fetch_cnmc(tmp_path / "new", SMALL)
    assert "Connection refused" in caught.value.received
    assert not (tmp_path / "new").exists()


def test_too_little_room_is_found_before_anything_is_downloaded(
    kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    part = tmp_path / ".download" / "2.archive"
    part.parent.mkdir()
    part.write_bytes(b"x" * 1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 12_499_998_999))
    with pytest.raises(FetchError) as caught:
        fetch_cnmc(tmp_path, SMALL)
    assert caught.value.what == f"There is not enough room in {tmp_path} for C-NMC 2019."
    assert kaggle.ranges == []


def test_data_set_that_is_mounted_is_used_where_it_lies(
    published: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a notebook on Kaggle or Colab."""
    import kagglehub

    monkeypatch.setattr(kagglehub, "dataset_download", lambda _: str(published.parent))
    found = fetch_cnmc(tmp_path / "out", SMALL)
    assert (found.folder, found.is_new) == (published, False)


def test_without_kagglehub_the_remedy_names_both_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda _: False)
    with pytest.raises(SettingsError) as caught:
        fetch_cnmc(tmp_path, SMALL)
    assert caught.value.what == "fetch c-nmc needs kagglehub."
    assert caught.value.remedy.startswith("pip install 'leukolens[fetch]', or download archive.zip in a browser")


def test_architectures_do_not_go_with_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^Architectures go with weights\."):
        fetch("c-nmc", tmp_path, ["vgg16"])


@pytest.mark.real
@pytest.mark.skipif(not LISTING.is_file(), reason="the listing of the published files is not at ../shared")
def test_published_names_are_believed(tmp_path: Path) -> None:
    """Files of one byte under the 15,114 published names, and the published table of labels: no image is opened."""
    with gzip.open(LISTING, "rt", encoding="utf-8") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    for folder in {Path(path).parent for path in paths}:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for path in paths:
        (tmp_path / path).write_bytes(b"x")
    shutil.copy(SHARED / "c-nmc-sample" / NAME / LABELS, tmp_path / NAME / LABELS)
    found: Any = fetch("c-nmc", tmp_path)
    # 73 training subjects and 28 of the preliminary set.
    assert (found.images, found.subjects) == (15_114, 101)

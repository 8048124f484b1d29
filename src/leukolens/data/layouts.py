"""Find the images of a data set, whichever way its folders are laid out.

In: a folder. Out: a `Layout`: one row per image (path, label, subject, fold, part), what stands between the images and
is none, and the classes. Writes: nothing. No image is opened here; only the label table of the preliminary set is read.

The folder layouts of C-NMC 2019 are those of its downloads (Kaggle, TCIA, CodaLab) and of their re-uploads. Folder
names are compared without regard to case, every listing is sorted, and nothing outside the given folder is read but the
label table and the marker of synthetic data that stand beside it.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from leukolens.artifacts import FINAL, POOL, PRELIMINARY
from leukolens.data.preprocessing import IMAGE_SUFFIXES
from leukolens.errors import LayoutError, SettingsError

logger = logging.getLogger("leukolens")

ALL, HEM = "ALL", "HEM"
CNMC_CLASSES = (HEM, ALL)  # negative first
SYNTHETIC_MARKER = "SYNTHETIC.json"
CLASS_FOLDERS = "class folders"
KNOWN_LAYOUTS: Mapping[str, str] = {
    "Kaggle": "training_data/fold_k/{all,hem}, validation_data, testing_data",
    "TCIA": "C-NMC_training_data/fold_k[/fold_k]/{all,hem}, C-NMC_test_prelim_phase_data, C-NMC_test_final_phase_data",
    "CodaLab": "fold_k/{all,hem}, phase2, phase3, phase2.csv",
    "C-NMC folds": "fold_k[/fold_k]/{all,hem}",
    "C-NMC flat": "{all,hem}",
    CLASS_FOLDERS: "one folder of images per class, two classes or more",
}

_PARTS: Mapping[str, str] = {
    "training_data": POOL,
    "c-nmc_training_data": POOL,
    "validation_data": PRELIMINARY,
    "c-nmc_test_prelim_phase_data": PRELIMINARY,
    "phase2": PRELIMINARY,
    "testing_data": FINAL,
    "c-nmc_test_final_phase_data": FINAL,
    "phase3": FINAL,
}
# The first whose names occur gives the layout its name: the Kaggle download holds TCIA's folder names one level below.
_NAMED_BY = (
    ("Kaggle", {"training_data", "validation_data", "testing_data"}),
    ("TCIA", {"c-nmc_training_data", "c-nmc_test_prelim_phase_data", "c-nmc_test_final_phase_data"}),
    ("CodaLab", {"phase2", "phase3"}),
)
_OWN_PREFIX = "c-nmc_"  # no other data set names its folders so
_LABEL_TABLES = {"c-nmc_test_prelim_phase_data_labels.csv", "phase2.csv"}
_LABEL_COLUMNS = ("Patient_ID", "new_names", "labels")
_LABEL_CODES = {"1": ALL, "0": HEM}
_CLASS_OF_FOLDER = {"all": ALL, "hem": HEM}
_LEVELS_TO_CLASSES = 3  # training_data / fold_0 / fold_0 / all
_NAMES_SHOWN = 12

_FOLD = re.compile(r"fold[ _-]?(\d+)", re.IGNORECASE)
# One published subject is spelt h3; a pattern without the small h loses its 36 cells.
_UID = re.compile(r"(?<![A-Za-z0-9])UID_([Hh]?\d+)_")
_LABEL_SUFFIX = re.compile(r"_(all|hem)$", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One image as its folder describes it; the fields are the columns of the manifest that have these names."""

    image: str
    label: str | None
    subject: str | None
    fold: str | None
    part: str


@dataclass(frozen=True)
class SetAside:
    """One file that is not used; `reason` is the code under which the flow counts it, `detail` says more."""

    image: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Listed:
    """One file on disk: path below the root, bytes, time of change (ns) and permission bits; -1 where unreadable.

    `problem` is the reason why a folder of that name could not be entered, empty for files.
    """

    path: str
    size: int
    mtime_ns: int
    mode: int
    problem: str = ""


@dataclass(frozen=True)
class Layout:
    """What `find_layout` found; `rows`, `set_aside` and `listing` are in path order."""

    name: str
    root: Path
    rows: tuple[Row, ...]
    set_aside: tuple[SetAside, ...]
    listing: tuple[Listed, ...]
    classes: tuple[str, ...]
    positive: tuple[str, ...]
    csv_rows_without_image: int = 0
    images_without_csv_row: int = 0
    synthetic: bool = False


@dataclass(frozen=True)
class _Match:
    """A folder that holds a data set: `parts` are the folders of images and their part (or class, `by_class`)."""

    name: str
    root: Path
    parts: tuple[tuple[Path, str], ...]

    @property
    def by_class(self) -> bool:
        return self.name == CLASS_FOLDERS

    def part(self, path: str) -> str:
        """The part that a file below the root belongs to; the root itself may be the only part."""
        top = PurePosixPath(path).parts[0]
        return next(part for folder, part in self.parts if folder in (self.root, self.root / top))


@dataclass(frozen=True)
class _LabelRow:
    number: int
    patient_id: str
    new_name: str
    label: str


@dataclass
class _LabelTable:
    """The labels of the preliminary set, found by file name or, where the suffix differs, by stem."""

    rows: list[_LabelRow] = field(default_factory=list)
    by_name: dict[str, _LabelRow] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)

    def add(self, row: _LabelRow) -> None:
        self.rows.append(row)
        for name in (row.new_name, row.patient_id):
            self.by_name.setdefault(name.casefold(), row)
            self.by_name.setdefault(PurePosixPath(name.casefold()).stem, row)

    def find(self, name: str) -> _LabelRow | None:
        name = name.casefold()
        row = self.by_name.get(name) or self.by_name.get(PurePosixPath(name).stem)
        if row is not None:
            self.used.add(row.number)
        return row


def find_layout(directory: Path, positive: Sequence[str] = ()) -> Layout:
    """List the images of the data set in `directory`, or one or two levels below where only one stands there.

    Args:
        directory: the data set's folder, a folder above it, or a part of it (`training_data`).
        positive: names of the positive class or classes; empty means ALL where the classes are ALL and HEM.

    Raises:
        LayoutError: no layout or several are found, only one class is there, or the label table is malformed.
        SettingsError: `positive` is missing (two classes, not ALL and HEM), unknown, or names every class.
    """
    directory = directory.resolve()
    match = _search(directory)
    listing = _list_files(match)
    table, table_files = _label_table(match, listing)
    no_data = table_files | {SYNTHETIC_MARKER}
    rows, set_aside = _sort_out(match, [entry for entry in listing if entry.path not in no_data], table)
    classes, positive = _order_classes(match, rows, positive)
    preliminary = [row for row in rows if row.part == PRELIMINARY]
    return Layout(
        name=match.name,
        root=match.root,
        rows=tuple(rows),
        set_aside=tuple(set_aside),
        listing=(*listing, *_beside(match.root, table_files, listing)),
        classes=classes,
        positive=positive,
        csv_rows_without_image=len(table.rows) - len(table.used),
        images_without_csv_row=sum(row.label is None for row in preliminary),
        synthetic=_is_synthetic(match.root),
    )


def shown(name: str) -> str:
    """Give a file name that can be printed and stored: bytes that are no UTF-8 and control characters escaped."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _search(directory: Path) -> _Match:
    if not directory.is_dir():
        raise LayoutError(
            f"{directory} is not a folder.",
            expected="a folder of images",
            received="a file" if directory.exists() else "nothing at that path",
            remedy="unpack the download and give the folder, or correct the path",
        )
    match = _match(directory) or _match_part(directory)
    matches = [match] if match else _without_links(_matches_below(directory, levels=2))
    if not matches:
        raise _no_layout(directory)
    if len(matches) > 1:
        raise LayoutError(
            f"{directory} holds more than one data set.",
            expected="one data set",
            received="; ".join(f"{shown(str(found.root))} ({found.name})" for found in matches[:_NAMES_SHOWN]),
            remedy="give the folder of one of them",
        )
    return matches[0]


def _matches_below(directory: Path, levels: int) -> Iterator[_Match]:
    for folder in _folders(directory) if levels else ():
        match = _match(folder)
        if match:
            yield match
        else:
            yield from _matches_below(folder, levels - 1)


def _without_links(matches: Iterable[_Match]) -> list[_Match]:
    """Keep the first of those that links lead to twice."""
    first: dict[Path, _Match] = {}
    for match in matches:
        first.setdefault(match.root.resolve(), match)
    return list(first.values())


def _match(root: Path) -> _Match | None:
    """Try the C-NMC layouts, then one folder per class."""
    folders = _folders(root)
    parts = tuple((folder, part) for folder in folders if (part := _part(folder)) is not None)
    if any(_is_cnmc(folder) for folder, _ in parts):
        return _Match(_layout_name(root, parts), root, parts)
    with_images = [folder for folder in folders if _holds_images(folder)]
    named = [folder for folder in folders if folder.name.casefold() in _CLASS_OF_FOLDER]
    if named and set(with_images) <= set(named):
        return _Match("C-NMC flat", root, tuple((folder, POOL) for folder in named))
    if len(with_images) > 1 and not any(_is_cnmc_root(folder) for folder in folders):
        return _Match(CLASS_FOLDERS, root, tuple((folder, POOL) for folder in folders))
    return None


def _match_part(folder: Path) -> _Match | None:
    """Try the folder as one part of C-NMC with the images right inside it."""
    part = _PARTS.get(folder.name.casefold())
    if part is None or not _holds_images(folder):
        return None
    return _Match(_layout_name(folder, ()), folder, ((folder, part),))


def _part(folder: Path) -> str | None:
    return POOL if _FOLD.fullmatch(folder.name) else _PARTS.get(folder.name.casefold())


def _layout_name(root: Path, parts: Iterable[tuple[Path, str]]) -> str:
    names = {root.name.casefold(), *(folder.name.casefold() for folder, _ in parts)}
    return next((layout for layout, marks in _NAMED_BY if names & marks), "C-NMC folds")


def _is_cnmc_root(folder: Path) -> bool:
    return any(_is_cnmc(child) for child in _folders(folder) if _part(child) is not None)


def _is_cnmc(folder: Path) -> bool:
    """Tell whether a folder with a part's name is C-NMC's: `training_data` alone is a name that others use too."""
    names = [folder.name, *(child.name for child in _folders(folder))]
    return any(name.casefold().startswith(_OWN_PREFIX) for name in names) or _holds_classes(folder, _LEVELS_TO_CLASSES)


def _holds_classes(folder: Path, levels: int) -> bool:
    children = _folders(folder) if levels else []
    if any(child.name.casefold() in _CLASS_OF_FOLDER for child in children):
        return True
    return any(_holds_classes(child, levels - 1) for child in children if _FOLD.fullmatch(child.name))


def _folders(folder: Path) -> list[Path]:
    """Visible sub-folders, sorted; none where the folder cannot be read, which the walk reports if it matters."""
    return [entry for entry in _entries(folder) if not is_hidden(entry.name) and _is_folder(entry)]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _holds_images(folder: Path) -> bool:
    return any(is_image_name(entry.name) for entry in _entries(folder))


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of that name is no content: hidden, or what macOS packs beside the files of a zip."""
    return name.startswith(".") or name == "__MACOSX"


def _stat(path: Path) -> tuple[int, int, int, tuple[int, int]]:
    """Size, time, mode and identity of what a path leads to; -1 where it leads nowhere."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1, -1, (-1, -1)
    return found.st_size, found.st_mtime_ns, found.st_mode, (found.st_dev, found.st_ino)


def _is_folder(path: Path) -> bool:
    mode = _stat(path)[2]
    return mode != -1 and stat.S_ISDIR(mode)


def _list_files(match: _Match) -> list[Listed]:
    """Every file in the match's folders of images, in path order; a class folder without images is none."""
    listing: list[Listed] = []
    above = frozenset(_stat(folder)[3] for folder in (match.root.resolve(), *match.root.resolve().parents))
    for folder, _ in match.parts:
        found = list(_walk(folder, match.root, above - {_stat(folder)[3]} if folder == match.root else above))
        if not match.by_class or any(is_image_name(entry.path) or entry.problem for entry in found):
            listing += found
        else:
            logger.warning("index: the folder %s holds no image and is no class", shown(folder.name))
    return sorted(listing, key=lambda entry: entry.path)


def _walk(folder: Path, root: Path, ancestors: frozenset[tuple[int, int]]) -> Iterator[Listed]:
    """List files below `folder`; a link that leads back to a folder above it is named, not followed."""
    identity = _stat(folder)[3]
    path = folder.relative_to(root).as_posix()
    if identity in ancestors:
        yield Listed(path, -1, -1, -1, "link_loop")
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        yield Listed(path, -1, -1, -1, "no_permission")
        return
    for entry in entries:
        size, mtime_ns, mode, _ = _stat(entry)
        if mode != -1 and stat.S_ISDIR(mode):
            yield from _walk(entry, root, ancestors | {identity})
        else:
            yield Listed(entry.relative_to(root).as_posix(), size, mtime_ns, mode)


def _beside(root: Path, tables: Iterable[str], listing: Iterable[Listed]) -> list[Listed]:
    """Files outside the folders of images that the manifest depends on: label table, marker of synthetic data."""
    markers = [SYNTHETIC_MARKER] if (root / SYNTHETIC_MARKER).is_file() else []
    names = {*tables, *markers} - {entry.path for entry in listing}
    return [Listed(name, *_stat(root / name)[:3]) for name in sorted(names)]


def _is_synthetic(root: Path) -> bool:
    """Tell whether the marker stands in the root or up to two levels above it: a part of a phantom is a phantom."""
    return any((folder / SYNTHETIC_MARKER).is_file() for folder in (root, *list(root.parents)[:2]))


def _sort_out(match: _Match, listing: Iterable[Listed], table: _LabelTable) -> tuple[list[Row], list[SetAside]]:
    rows: list[Row] = []
    set_aside: list[SetAside] = []
    for entry in listing:
        problem = _no_image(entry)
        if problem is not None:
            set_aside.append(problem)
            continue
        found = _class_row(entry.path) if match.by_class else _cnmc_row(match, entry.path, table)
        if isinstance(found, Row):
            rows.append(found)
        else:
            set_aside.append(found)
    return rows, set_aside


def _no_image(entry: Listed) -> SetAside | None:
    path = entry.path
    if path != path.encode("utf-8", "surrogateescape").decode("utf-8", "replace"):
        return SetAside(shown(path), "bad_name", "the name is not UTF-8")
    if entry.problem:
        details = {"link_loop": "a link to a folder above it", "no_permission": "a folder that may not be read"}
        return SetAside(path, entry.problem, details[entry.problem])
    if any(is_hidden(name) for name in PurePosixPath(path).parts):
        return SetAside(path, "not_an_image", "a hidden file")
    if not is_image_name(path):
        suffix = PurePosixPath(path).suffix
        return SetAside(path, "not_an_image", f"suffix {shown(suffix)}" if suffix else "no suffix")
    return None


def is_image_name(path: str) -> bool:
    """Tell whether a path with forward slashes ends as image files do and is not hidden; its folders are not looked at."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(PurePosixPath(path).name)


def _class_row(path: str) -> Row | SetAside:
    label = PurePosixPath(path).parts[0]
    in_name = _label_in_name(path)
    if in_name is not None and label.upper() in CNMC_CLASSES and label.upper() != in_name:
        return _conflict(path, f"the folder says {label}", in_name)
    return Row(path, label, _subject_in_name(path), None, POOL)


def _cnmc_row(match: _Match, path: str, table: _LabelTable) -> Row | SetAside:
    folders = (match.root.name, *PurePosixPath(path).parts[:-1])
    part = match.part(path)
    if part == FINAL:
        return Row(path, None, None, None, FINAL)
    named = table.find(PurePosixPath(path).name) if part == PRELIMINARY else None
    name = named.patient_id if named else path
    in_name = _label_in_name(name)
    in_folder = next((label for each in folders[:0:-1] if (label := _CLASS_OF_FOLDER.get(each.casefold()))), None)
    label = named.label if named else in_folder or in_name
    for other, source in ((in_folder, "folder"), (in_name, "name")):
        if label is not None and other is not None and other != label:
            return _conflict(path, f"the {'label table' if named else 'folder'} says {label}", other, source)
    fold = next((found for each in reversed(folders) if (found := _FOLD.fullmatch(each))), None)
    return Row(path, label, _subject_in_name(name), f"fold_{int(fold[1])}" if fold else None, part)


def _conflict(path: str, first: str, other: str, source: str = "name") -> SetAside:
    return SetAside(path, "label_conflict", f"{first}, the {source} says {other}")


def _subject_in_name(path: str) -> str | None:
    found = _UID.search(PurePosixPath(path).name)
    return found[1].upper() if found else None


def _label_in_name(path: str) -> str | None:
    name = PurePosixPath(path).name
    found = _LABEL_SUFFIX.search(_stem(name)) if _UID.search(name) else None
    return found[1].upper() if found else None


def _stem(name: str) -> str:
    return name.split(".", maxsplit=1)[0]


def _label_table(match: _Match, listing: Iterable[Listed]) -> tuple[_LabelTable, set[str]]:
    """Read the preliminary labels; gives them and the paths (below the root) of the tables that were recognised."""
    folders = [folder for folder, part in match.parts if part == PRELIMINARY and not match.by_class]
    inside = [match.root / entry.path for entry in listing if entry.path.lower().endswith(".csv")]
    candidates = [path for path in inside if any(path.is_relative_to(folder) for folder in folders)]
    for parent in sorted({folder.parent for folder in folders}):
        candidates += [path for path in _entries(parent) if path.name.casefold() in _LABEL_TABLES]
    tables = {path: text for path in candidates if (text := _label_text(path)) is not None}
    if not tables:
        return _LabelTable(), set()
    if len(set(tables.values())) > 1:
        raise LayoutError(
            f"{match.root} holds label tables that differ.",
            expected="one label table for the preliminary set",
            received=", ".join(str(path) for path in tables),
            remedy="remove all but the right one",
        )
    path, text = next(iter(tables.items()))
    return _parse_label_table(path, text), {_below(path, match.root) for path in tables}


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else f"../{path.name}"


def _label_text(path: Path) -> str | None:
    """The text of a label table, told by its name or, under another name, by its header; None for other files."""
    if is_hidden(path.name) or not path.is_file():
        return None
    known = path.name.casefold() in _LABEL_TABLES
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        if known:
            raise _bad_table(path, 1, "readable text in UTF-8", str(error)) from error
        return None
    return text if known or set(_LABEL_COLUMNS) <= set(_header(text)) else None


def _header(text: str) -> list[str]:
    return [name.strip() for name in text.partition("\n")[0].split(",")]


def _parse_label_table(path: Path, text: str) -> _LabelTable:
    header = _header(text)
    if not set(_LABEL_COLUMNS) <= set(header):
        raise _bad_table(path, 1, f"columns {', '.join(_LABEL_COLUMNS)}", ", ".join(header) or "an empty file")
    table = _LabelTable()
    first_row: dict[str, int] = {}
    reader = csv.DictReader(io.StringIO(text, newline=""), header, skipinitialspace=True, strict=True)
    try:
        next(reader)
        for cells in reader:
            row = _label_row(path, reader.line_num, cells)
            first = first_row.setdefault(row.new_name.casefold(), row.number)
            if first != row.number:
                raise _bad_table(path, row.number, "each image once", f"{row.new_name}, also in row {first}")
            table.add(row)
    except csv.Error as error:
        raise _bad_table(path, reader.line_num, "comma-separated text", str(error)) from error
    return table


def _label_row(path: Path, number: int, cells: Mapping[str, str | None]) -> _LabelRow:
    patient_id, new_name, code = ((cells[column] or "").strip() for column in _LABEL_COLUMNS)
    if not _UID.search(patient_id):
        raise _bad_table(path, number, "Patient_ID like UID_57_29_1_all.bmp", repr(patient_id))
    if not new_name:
        raise _bad_table(path, number, "new_names like 1.bmp", "an empty cell")
    if code not in _LABEL_CODES:
        raise _bad_table(path, number, "labels 1 (ALL) or 0 (HEM)", repr(code))
    return _LabelRow(number, patient_id, new_name, _LABEL_CODES[code])


def _bad_table(path: Path, row: int, expected: str, received: str) -> LayoutError:
    remedy = "take the label table from the download again, or mend that row"
    return LayoutError(f"{path}, row {row}, cannot be read.", expected=expected, received=received, remedy=remedy)


def _order_classes(
    match: _Match, rows: Iterable[Row], positive: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class names, negative ones first, and which of them are positive, in the order given."""
    present = sorted({row.label for row in rows if row.label is not None})
    if len(present) < 2:
        raise LayoutError(
            f"{match.root} holds images of one class at most.",
            expected="labelled images of two classes or more",
            received=f"{present[0]} only" if present else "no labelled image",
            remedy="give the folder that holds the folders of all classes",
        )
    if not positive and set(present) == set(CNMC_CLASSES):
        positive = (ALL,)
    elif not positive and len(present) == 2:
        raise _bad_positive("It is not said which class is positive.", present, "no name")
    chosen = tuple(dict.fromkeys(_known_class(name, present) for name in positive))
    if len(chosen) == len(present):
        raise _bad_positive("Every class is named positive.", present, ", ".join(chosen))
    return (*(name for name in present if name not in chosen), *chosen), chosen


def _known_class(name: str, present: Sequence[str]) -> str:
    """The class of that name, or the only one that differs from it in case alone."""
    alike = [each for each in present if each == name] or [each for each in present if each.lower() == name.lower()]
    if len(alike) != 1:
        raise _bad_positive(f"There is no class {name!r}.", present, name)
    return alike[0]


def _bad_positive(what: str, present: Sequence[str], received: str) -> SettingsError:
    return SettingsError(
        what,
        expected=f"one or more, not all, of the classes {', '.join(shown(name) for name in present)}",
        received=received,
        remedy="name the class or classes that mean disease: --positive NAME[,NAME…]",
    )


def _no_layout(directory: Path) -> LayoutError:
    return LayoutError(
        f"{directory} is laid out in no way that leukolens knows.",
        expected="".join(f"\n    {name}: {form}" for name, form in KNOWN_LAYOUTS.items()),
        received=_top_level(directory),
        remedy="give the folder that holds one of these, or sort the images into one folder per class",
    )


def _top_level(directory: Path) -> str:
    """What stands at the top of a folder, with counts."""
    folders = _folders(directory)
    lines = [f"{shown(folder.name)}/ ({_contents(folder)})" for folder in folders[:_NAMES_SHOWN]]
    if len(folders) > _NAMES_SHOWN:
        lines.append(f"… and {len(folders) - _NAMES_SHOWN} more folders")
    return "; ".join([*lines, f"at the top: {_contents(directory)}"])


def _contents(folder: Path) -> str:
    try:
        kinds = Counter(_kind(entry) for entry in folder.iterdir())
    except OSError:
        return "may not be read"
    return ", ".join(f"{kinds[kind]} {kind}" for kind in ("folders", "images", "other files") if kinds[kind]) or "empty"


def _kind(entry: Path) -> str:
    if _is_folder(entry):
        return "folders"
    return "images" if is_image_name(entry.name) else "other files"

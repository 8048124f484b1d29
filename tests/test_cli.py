from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pytest
import yaml

import leukolens
from cohort import build_cohort, draw_cell, write_image
from leukolens import cli
from leukolens.artifacts import Manifest, Predictions, Splits, hash_file, read_json
from leukolens.errors import RunError
from leukolens.settings import InputSettings, Settings, TrainSettings
from leukolens.training.runs import Run

VERBS = ["index", "split", "train", "predict", "explain", "evaluate", "report", "compare", "crossval", "phantom", "export",
         "fetch", "doctor"]  # fmt: skip
SLOW_LIBRARIES = ["torch", "torchvision", "timm", "lightning", "sklearn", "pandas", "numpy", "pyarrow", "matplotlib", "PIL"]
TINY = {"weights": "none", "input_px": 32, "head_epochs": 20, "finetune_epochs": 1, "batch_size": 8, "device": "cpu"}
SECONDS_TO_WAIT = 120


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


Leukolens = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _logger_as_it_was() -> Iterator[None]:
    """The command line gives the package's logger a handler of its own."""
    logger = logging.getLogger("leukolens")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def run_leukolens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Leukolens:
    """Call `leukolens ARGUMENTS` in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["leukolens", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


def write_config(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


# Help


def test_help_names_every_verb(run_leukolens: Leukolens) -> None:
    outcome = run_leukolens("--help")
    assert outcome.status == 0
    assert "Research software, not a medical device." in outcome.out
    for verb in VERBS:
        assert re.search(rf"^\W*{verb}\s", outcome.out, re.MULTILINE), verb


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_an_example(run_leukolens: Leukolens, verb: str) -> None:
    outcome = run_leukolens(verb, "--help")
    assert outcome.status == 0
    assert re.search(rf"Examples?: .*leukolens {verb} ", outcome.out)


def test_examples_use_only_options_that_there_are(run_leukolens: Leukolens) -> None:
    for verb in VERBS:
        text = run_leukolens(verb, "--help").out
        usage, _, examples = re.sub(r"\s+", " ", text).rpartition("Example")
        for option in re.findall(r"--[a-z-]+", examples):
            assert re.search(rf"{option}\b", usage), f"{verb}: {option}"


def test_version_is_printed(run_leukolens: Leukolens) -> None:
    assert run_leukolens("--version") == Outcome(0, f"{leukolens.__version__}\n", "")


@pytest.mark.parametrize("statement", ["import leukolens", "import leukolens.cli"])
def test_nothing_slow_is_imported_before_it_is_used(statement: str) -> None:
    """What makes `leukolens --help` answer at once; times are not asserted, they depend on the machine."""
    code = f"import sys, json; {statement}; print(json.dumps([n for n in {SLOW_LIBRARIES} if n in sys.modules]))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(found.stdout) == []


def test_no_arguments_show_the_help(run_leukolens: Leukolens) -> None:
    outcome = run_leukolens()
    assert outcome.status == 2
    assert re.search(r"Usage: .*leukolens \[OPTIONS\] COMMAND", outcome.out)


# Errors


def assert_error(outcome: Outcome, what: str) -> None:
    """Status 1, and on standard error what, expected, received and remedy, and nothing of Python's."""
    assert outcome.status == 1, outcome
    lines = outcome.err.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("error: "))
    assert re.search(what, lines[first]), outcome.err
    assert [line.split(":")[0] for line in lines[first + 1 : first + 4]] == ["  expected", "  received", "  remedy"]
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


def test_errors_say_what_was_expected_received_and_what_to_do(run_leukolens: Leukolens, tmp_path: Path) -> None:
    assert_error(run_leukolens("index", tmp_path / "nowhere", "--out", tmp_path), "nowhere")
    assert_error(run_leukolens("split", tmp_path), r"manifest\.parquet does not exist\.$")
    assert_error(run_leukolens("train", tmp_path), r"manifest\.parquet does not exist\.$")
    assert_error(run_leukolens("predict", tmp_path, tmp_path), "holds no finished run")
    assert_error(run_leukolens("evaluate", tmp_path), r"predictions\.parquet does not exist\.$")
    assert_error(run_leukolens("report", tmp_path), str(tmp_path))
    assert_error(run_leukolens("compare", tmp_path / "nowhere", "--out", tmp_path, "--weights", "none"), "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_unknown_architecture_is_named(run_leukolens: Leukolens, cohort: Any, tmp_path: Path) -> None:
    outcome = run_leukolens("train", cohort.results, "--arch", "resnet51", "--out", tmp_path / "run")
    assert_error(outcome, "^error: 'resnet51' is no architecture that leukolens knows")
    assert not (tmp_path / "run").exists()


def test_compare_finds_a_wrong_name_before_it_reads_an_image(run_leukolens: Leukolens, tmp_path: Path) -> None:
    cells = build_cohort(tmp_path / "cells", 2, 2)
    outcome = run_leukolens("compare", cells, "--arch", "vgg17", "--out", tmp_path / "out")
    assert_error(outcome, "'vgg17' is no architecture")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["split", "--fractions", "0.9,0.2,0.1"], "fractions must be 3 shares above 0 that sum to 1"),
        (["split", "--fractions", "0.9,some"], "^error: fractions"),
        (["split", "--folds", "2"], "^error: folds"),
        (["split", "--strategy", "official", "--folds", "3"], "folds exist for 'subject' and 'image' only"),
        (["split", "--strategy", "file"], "strategy 'file' and a split file go together"),
        (["train", "--input-px", "8"], "^error: input_px"),
        (["train", "--epochs", "-1"], "^error: finetune_epochs"),
        (["train", "--crop", "centre"], "crop 'centre' and crop_px go together: give both or neither"),
        (["crossval", "--crop", "cell", "--crop-px", "40"], "crop 'centre' and crop_px go together: give both or neither"),
        (["train", "--crop", "centre", "--crop-px", "20"], r"^error: input\.crop_px"),
        (["train", "--crop", "centre", "--crop-px", "49", "--weights", "none"], "The canvas has no central square of 49 px"),
        (["index", "--canvas", "450"], "^error: canvas_px"),
        (["index", "--canvas", "450xwide"], r"^error: canvas_px\.1"),
    ],
)
def test_value_that_cannot_be_used_is_named(
    run_leukolens: Leukolens, cohort: Any, arguments: list[str], named: str
) -> None:
    verb, *flags = arguments
    assert_error(run_leukolens(verb, cohort.cells if verb == "index" else cohort.results, *flags), named)


@pytest.mark.parametrize(
    "arguments", [["train"], ["trian", "x"], ["split", "x", "--stratgy", "image"], ["train", "x", "--weights", "all"]]
)
def test_wrong_usage_has_status_2(run_leukolens: Leukolens, arguments: list[str]) -> None:
    outcome = run_leukolens(*arguments)
    assert outcome.status == 2
    assert re.search(r"^Usage: .*leukolens", outcome.err)


@pytest.mark.parametrize("flags", [["--protocol", "file"], ["--protocol", "subject", "--split-file", "sides.csv"]])
def test_protocol_and_split_file_go_together(run_leukolens: Leukolens, tmp_path: Path, flags: list[str]) -> None:
    cells = build_cohort(tmp_path / "cells", 2, 2)
    outcome = run_leukolens("compare", cells, "--out", tmp_path / "out", "--weights", "none", *flags)
    assert_error(outcome, "protocol 'file' and a split file go together")


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of another kind")
def test_folder_that_cannot_be_written_is_named(run_leukolens: Leukolens, cohort: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    outcome = run_leukolens("index", cohort.cells, "--out", tmp_path / "file" / "out")
    assert outcome.status == 1
    assert str(tmp_path / "file") in outcome.err
    assert "remedy:" in outcome.err
    assert "Traceback" not in outcome.err


# Settings files


def test_unknown_key_of_a_settings_file_is_named(run_leukolens: Leukolens, cohort: Any, tmp_path: Path) -> None:
    config = write_config(tmp_path / "s.yaml", {"learning_rat": 0.1})
    outcome = run_leukolens("train", cohort.results, "--config", config)
    assert_error(outcome, r"^error: learning_rat: Extra inputs are not permitted\.$")
    assert "expected: settings of TrainSettings: architecture, weights" in outcome.err
    nested = write_config(tmp_path / "n.yaml", {"train": {"augmentation": {"hue": 1}}})
    outcome = run_leukolens("compare", cohort.cells, "--config", nested)
    assert_error(outcome, r"^error: train\.augmentation\.hue: Extra inputs are not permitted\.$")


@pytest.mark.parametrize("text", ["just words", "- a\n- b", "", "a: [", "\x00"])
def test_file_without_settings_is_named(run_leukolens: Leukolens, cohort: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    outcome = run_leukolens("split", cohort.results, "--config", tmp_path / "s.yaml", "--out", tmp_path)
    assert outcome.status == 1, outcome
    assert outcome.err.startswith(f"error: {tmp_path / 's.yaml'} holds no settings.\n  expected: a YAML mapping")


@pytest.mark.parametrize("value", [None, 5, "words", ["a"]])
def test_section_of_a_settings_file_that_is_no_mapping_is_named(
    run_leukolens: Leukolens, cohort: Any, tmp_path: Path, value: object
) -> None:
    config = write_config(tmp_path / "s.yaml", {"train": value})
    assert_error(run_leukolens("compare", cohort.cells, "--config", config, "--out", tmp_path / "out"), "^error: train")


def test_flags_go_before_the_file_and_the_file_before_the_defaults(
    run_leukolens: Leukolens, cohort: Any, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "s.yaml", {"seed": 7, "strategy": "image"})
    assert run_leukolens("split", cohort.results, "--out", tmp_path, "--config", config, "--seed", 9).status == 0
    record = Splits.load(tmp_path).record
    assert (record["seed"], record["strategy"], record["fractions"]) == (9, "image", [0.7, 0.15, 0.15])


def test_precedence_holds_in_sections(run_leukolens: Leukolens, cohort: Any, tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "s.yaml",
        {"architectures": ["timm:test_vit"], "train": {**TINY, "finetune_epochs": 0, "dropout": 0.4, "seed": 3}},
    )
    flags = ["--arch", "timm:test_resnet", "--seed", 5, "--batch-size", 4]
    assert run_leukolens("compare", cohort.cells, "--out", tmp_path / "out", "--config", config, *flags).status == 0
    settings = read_json(tmp_path / "out" / "subject" / "timm_test_resnet" / "run.json")["settings"]
    chosen = {name: settings[name] for name in ("seed", "batch_size", "dropout", "head_epochs", "weight_decay")}
    assert chosen == {"seed": 5, "batch_size": 4, "dropout": 0.4, "head_epochs": 20, "weight_decay": 0.01}
    assert not (tmp_path / "out" / "subject" / "timm_test_vit").exists()


# Flags that reach their settings


def test_flags_of_index_reach_the_manifest(run_leukolens: Leukolens, tmp_path: Path) -> None:
    for name in ("Benign", "Early", "Pro"):
        for cell in range(3):
            write_image(tmp_path / "smears" / name / f"{cell}.png", draw_cell(ord(name[0]) + cell))
    outcome = run_leukolens(
        "index", tmp_path / "smears", "--out", tmp_path, "--positive", "Early, Pro", "--canvas", "40X50"
    )
    assert outcome.status == 0, outcome.err
    record = Manifest.load(tmp_path).record
    assert record["positive"] == ["Early", "Pro"]
    assert record["canvas_px"] == [40, 50]
    assert outcome.out.splitlines()[-3:] == [
        f"written: {tmp_path / name}" for name in ("manifest.parquet", "flow.json", "set_aside.csv")
    ]


@pytest.mark.parametrize("verb", ["train", "crossval", "compare"])
def test_crop_and_colours_reach_the_settings(
    run_leukolens: Leukolens, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    given: list[TrainSettings] = []

    def keep(*arguments: Any) -> NoReturn:
        settings = next(each for each in arguments if isinstance(each, Settings))
        given.append(settings if isinstance(settings, TrainSettings) else settings.train)
        raise RunError("seen", expected="", received="", remedy="")

    monkeypatch.setattr(f"leukolens.{'training.train' if verb == 'train' else 'pipeline'}.{verb}", keep)
    inner = {"input": {"crop": "centre", "crop_px": 40, "colour": "grey"}, "augmentation": {"hed_shift": 0.2}}
    config = write_config(tmp_path / "s.yaml", inner if verb == "train" else {"train": inner})
    folder = cohort.cells if verb == "compare" else cohort.results
    run_leukolens(verb, folder, "--out", tmp_path / "out", "--crop", "cell", "--colour", "constancy")
    run_leukolens(verb, folder, "--out", tmp_path / "out", "--config", config, "--crop-px", 44)
    run_leukolens(verb, folder, "--out", tmp_path / "out")
    assert [each.input for each in given] == [
        InputSettings(crop="cell", colour="constancy"),
        InputSettings(crop="centre", crop_px=44, colour="grey"),
        InputSettings(),
    ]
    assert [each.augmentation.hed_shift for each in given] == [0, 0.2, 0]


def test_what_is_trained_and_from_where_reach_the_settings(
    run_leukolens: Leukolens, cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def keep(*arguments: Any) -> NoReturn:
        given.append(next(each for each in arguments if isinstance(each, Settings)))
        raise RunError("seen", expected="", received="", remedy="")

    monkeypatch.setattr("leukolens.training.train.train", keep)
    monkeypatch.setattr("leukolens.pipeline.crossval", keep)
    run_leukolens("train", cohort.results, "--trainable", "last_block", "--start-from", tmp_path)
    assert (given[0].trainable, given[0].start_from) == ("last_block", tmp_path)
    # A cross-validation fine-tunes where its file says so, and where nobody does it leaves the backbone frozen.
    config = write_config(tmp_path / "s.yaml", {"train": {"finetune_epochs": 2, "ema_decay": 0.9}})
    for flags in (["--config", config], ["--config", config, "--epochs", 1], []):
        run_leukolens("crossval", cohort.results, "--out", tmp_path / "out", *flags)
    assert [each.train.finetune_epochs for each in given[1:]] == [2, 1, 0]
    assert [each.train.ema_decay for each in given[1:]] == [0.9, 0.9, 0]


def test_strict_stops_at_the_first_unusable_file(run_leukolens: Leukolens, tmp_path: Path) -> None:
    cells = build_cohort(tmp_path / "cells", 2, 2)
    (cells / "training_data" / "fold_1" / "all" / "UID_1_9_1_all.bmp").write_bytes(b"")
    assert_error(run_leukolens("index", cells, "--out", tmp_path, "--strict"), r"UID_1_9_1_all\.bmp")
    relaxed = run_leukolens("index", cells, "--out", tmp_path)
    assert relaxed.status == 0
    assert "UID_1_9_1_all.bmp" in relaxed.out


@pytest.mark.parametrize(("flags", "lines"), [([], 1), (["--quiet"], 0)])
def test_quiet_says_only_what_was_written(
    run_leukolens: Leukolens, cohort: Any, head_run: Run, tmp_path: Path, flags: list[str], lines: int
) -> None:
    """The run is finished: all that is left to say is that."""
    config = write_config(tmp_path / "s.yaml", head_run.settings.model_dump(mode="json"))
    outcome = run_leukolens(*flags, "train", cohort.results, "--config", config, "--out", head_run.folder)
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("already trained") == lines
    written = [head_run.folder / name for name in ("run.json", "weights.safetensors", "decision.json")]
    assert outcome.out.splitlines()[-3:] == [f"written: {path}" for path in written]


def test_all_images_of_another_data_set_are_scored(run_leukolens: Leukolens, head_run: Run, tmp_path: Path) -> None:
    cells = build_cohort(tmp_path / "cells", 2, 2, first_seed=1000)
    assert run_leukolens("index", cells, "--out", tmp_path / "new").status == 0
    outcome = run_leukolens("predict", head_run.folder, tmp_path / "new", "--all", "--out", tmp_path / "scores")
    assert outcome.status == 0, outcome.err
    assert outcome.out.startswith("8 images, ")
    assert set(Predictions.load(tmp_path / "scores").table["side"]) == {"test"}
    assert not (head_run.folder / "predictions.parquet").exists()


def test_phantom_like_a_published_set_takes_no_counts(run_leukolens: Leukolens, tmp_path: Path) -> None:
    outcome = run_leukolens("phantom", tmp_path / "cells", "--like", "c-nmc-2019", "--cells", 100)
    assert outcome.status == 1
    assert "a phantom like c-nmc-2019 has its cells and subjects: leave cells and subjects out." in outcome.err
    assert not (tmp_path / "cells").exists()


# Bundles


def test_bundle_is_made_and_scores_by_the_engine_that_is_named(
    run_leukolens: Leukolens, head_run: Run, cohort: Any, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    outcome = run_leukolens("export", head_run.folder, "--manifest", cohort.results, "--format", "openvino", "--out", bundle)
    assert outcome.status == 0, outcome.err
    assert outcome.out.splitlines()[0].startswith("bundle of test_resnet, hash ")
    assert outcome.out.splitlines()[1].startswith("openvino: 0 of ")
    assert outcome.out.splitlines()[-3:] == [
        f"written: {bundle / name}" for name in ("bundle.json", "export.json", "network.xml")
    ]
    scored = run_leukolens("predict", bundle, cohort.results, "--engine", "openvino", "--out", tmp_path / "scores")
    assert scored.status == 0, scored.err
    assert Predictions.load(tmp_path / "scores").record["engine"] == "openvino"
    assert_error(
        run_leukolens("predict", bundle, cohort.results, "--engine", "int8", "--out", tmp_path / "scores"),
        "There is no network for the engine int8 here",
    )


def test_export_that_fails_leaves_nothing(
    run_leukolens: Leukolens, head_run: Run, cohort: Any, tmp_path: Path
) -> None:
    command = ("export", head_run.folder, "--manifest", cohort.results, "--out", tmp_path / "bundle")
    assert_error(run_leukolens(*command, "--format", "litert"), "LiteRT files cannot be written here")
    assert_error(run_leukolens(*command, "--cells", 0), "cells: Input should be greater than 0")
    known = r"formats\.0: Input should be 'onnx', 'openvino', 'int8' or 'litert'"
    assert_error(run_leukolens(*command, "--format", "keras"), known)
    assert list(tmp_path.iterdir()) == []


# Ctrl-C


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(cohort: Any, finetuned_run: Run, tmp_path: Path) -> None:
    settings = finetuned_run.settings.model_copy(update={"finetune_epochs": 40, "patience": 40})
    config = write_config(tmp_path / "s.yaml", settings.model_dump(mode="json"))
    command = [sys.executable, "-m", "leukolens.cli", "train", str(cohort.results), "--config", str(config)]
    command += ["--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        last, deadline = tmp_path / "run" / "resume" / "last.safetensors", time.monotonic() + SECONDS_TO_WAIT
        while not last.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS_TO_WAIT)
    assert last.is_file(), errors
    assert not (tmp_path / "run" / "run.json").exists()
    assert process.returncode == 130
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert len(pd.read_csv(tmp_path / "run" / "epochs.csv")) == 1 + 40
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "interrupted; nothing half-written is left, give the same command to go on"


# Every verb


@pytest.mark.slow
def test_every_verb_from_synthetic_cells_to_a_report(run_leukolens: Leukolens, tmp_path: Path) -> None:
    def succeed(*arguments: object) -> str:
        outcome = run_leukolens(*arguments)
        assert outcome.status == 0, outcome.err
        written = [Path(line.removeprefix("written: ")) for line in outcome.out.splitlines() if line.startswith("written: ")]
        assert written, arguments
        assert all(path.exists() for path in written), arguments
        return outcome.out

    architectures = ["--arch", "timm:test_resnet", "--arch", "timm:test_efficientnet"]
    config = write_config(tmp_path / "train.yaml", {**TINY, "architecture": "timm:test_resnet"})
    step, run = tmp_path / "steps", tmp_path / "steps" / "run"
    cells = next(
        Path(line.removeprefix("written: "))
        for line in succeed("phantom", tmp_path / "demo", "--cells", 48, "--subjects", 12).splitlines()
    )
    assert "SYNTHETIC" in succeed("index", cells, "--out", step)
    assert "duplicates on two sides: 0" in succeed("split", step)
    assert "validation balanced accuracy " in succeed("train", step, "--config", config, "--out", run)
    assert " images/s" in succeed("predict", run, step)
    assert "balanced_accuracy" in succeed("evaluate", run)
    succeed("report", run)
    assert "test_resnet" in (run / "report.html").read_text()

    short = {"folds": 3, "repeats": 2, "evaluate": {"resamples": 200}}
    both = write_config(tmp_path / "both.yaml", {"protocol": "both", "train": TINY, **short})
    command = ("compare", cells, *architectures, "--config", both, "--out", tmp_path / "results")
    shown = succeed(*command)
    assert "split by subject" in shown
    assert "split by image: optimistic" in shown
    table = pd.read_csv(tmp_path / "results" / "comparison.csv")
    networks = table[table["kind"] == "network"]
    assert networks["display_name"].tolist() == ["test_resnet", "test_efficientnet"] * 4
    assert table["is_best"].groupby(table["study"]).sum().tolist() == [1, 1, 1, 1]
    assert (networks["weights"].str.contains("random weights")).all()
    report = (tmp_path / "results" / "report.html").read_text()
    for word in ("test_resnet", "test_efficientnet", "split by image: optimistic", "ynthetic"):
        assert word in report
    # The steps and the comparison are the same pipeline.
    compared = tmp_path / "results" / "subject" / "timm_test_resnet"
    scores = [Predictions.load(folder).table for folder in (run, compared)]
    pd.testing.assert_frame_equal(*scores)

    assert "cross-validated by subject" in succeed("crossval", step, *architectures, "--config", write_config(
        tmp_path / "crossval.yaml", {**short, "train": {**TINY, "finetune_epochs": 0}}))  # fmt: skip
    assert (step / "crossvalidated" / "report.html").is_file()

    # Another tool's scores get the same page.
    scores = tmp_path / "other.csv"
    table = Predictions.load(compared).table
    table[table["side"] == "test"][["image", "subject", "y_true", "y_score"]].to_csv(scores, index=False)
    succeed("evaluate", scores, "--out", tmp_path / "other")
    succeed("report", tmp_path / "other")

    # The same command again reads what there is, and makes the same table.
    weights = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("weights.safetensors")}
    before = hash_file(tmp_path / "results" / "comparison.csv")
    succeed(*command)
    assert hash_file(tmp_path / "results" / "comparison.csv") == before
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert len(weights) == 4

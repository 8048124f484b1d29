"""Every verb of the command line: parse, load settings, call one function, print what was written.

In: flags and an optional YAML file (defaults < file < flags). Out: text. Writes: nothing itself. Errors go to standard
error with what was expected, what was received and what to do; the exit status is 1, for wrong usage 2, after Ctrl-C 130, and 3
where `predict` or `explain` wrote what it should but could not score every input.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from leukolens.errors import LeukolensError, SettingsError
from leukolens.processes import started_processes
from leukolens.settings import (
    Colour,
    CompareSettings,
    Crop,
    CrossvalSettings,
    Device,
    EngineChoice,
    EvaluateSettings,
    ExplainSettings,
    ExportSettings,
    IndexSettings,
    PhantomSettings,
    Precision,
    PredictSettings,
    ServeSettings,
    Settings,
    SplitSettings,
    SplitStrategy,
    TrainSettings,
    WeightsPolicy,
)
from leukolens.settings_files import read_settings_file, shortened

DEFAULT_OUT = Path("leukolens-out")
EXIT_ERROR, EXIT_FAILED_INPUTS, EXIT_INTERRUPTED = 1, 3, 130

_AnySettings = TypeVar("_AnySettings", bound=Settings)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train, compare and honestly evaluate image classifiers of leukemia cells (ALL against HEM). "
    "Research software, not a medical device.",
    epilog="Start with `leukolens compare FOLDER --out RESULTS`, or `leukolens phantom phantom-cells` for synthetic ones.",
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings; a flag outweighs it.", exists=True, dir_okay=False)]
Seed = Annotated[int | None, typer.Option(help="Seed of every random choice. [default: 0]")]
Names = Annotated[str | None, typer.Option(help="Positive class or classes: NAME[,NAME…]. [default: ALL, where there is one]")]
Canvas = Annotated[str | None, typer.Option(help="Common canvas, HEIGHTxWIDTH. [default: the most common size]")]
Strict = Annotated[bool | None, typer.Option("--strict", help="Stop at the first unusable file instead of setting it aside.")]
Fractions = Annotated[str | None, typer.Option(help="Training,validation,test. [default: 0.7,0.15,0.15]")]
SplitFile = Annotated[Path | None, typer.Option("--split-file", help="For `file`: a CSV with columns image, side.")]
Weights = Annotated[
    WeightsPolicy | None,
    typer.Option(help="pretrained: an error where none are to be had; available: random instead, said in every row; none."),
]
WeightsDir = Annotated[Path | None, typer.Option(help="Folder of safetensors with index.json.", exists=True, file_okay=False)]
Epochs = Annotated[int | None, typer.Option(help="Fine-tuning epochs at most; 0 keeps the backbone frozen. [default: 6]")]
HeadOnly = Annotated[bool, typer.Option("--head-only", help="Frozen-feature phase only, the same as --epochs 0.")]
BatchSize = Annotated[int | None, typer.Option(help="Images per step. [default: 32]")]
Aim = Annotated[
    str | None,
    typer.Option(help="What the threshold is chosen for on validation: balanced_accuracy, or sensitivity:0.95 (at least)."),
]
Tta = Annotated[bool | None, typer.Option("--tta", help="Also score the mean over 8 flips and quarter turns (8 times slower).")]
Folds = Annotated[int | None, typer.Option(help="Folds of the cross-validation. [default: 5]")]
Repeats = Annotated[int | None, typer.Option(help="Repetitions with other folds and another seed. [default: 3]")]
Resamples = Annotated[int | None, typer.Option(help="Bootstrap resamples behind each interval. [default: 2000]")]
TrainedPart = Annotated[
    Literal["all", "last_block"] | None, typer.Option(help="What fine-tuning changes besides the head. [default: all]")
]
InputPx = Annotated[int | None, typer.Option(help="Side of the network's input in pixels. [default: 224]")]
CropTo = Annotated[
    Crop | None,
    typer.Option(help="All of the canvas; its centre, by --crop-px; or a square around the cell, size lost. [default: canvas]"),
]
CropPx = Annotated[int | None, typer.Option(help="With --crop centre: side of the central square, in pixels of the canvas.")]
InColour = Annotated[Colour | None, typer.Option(help="As it is, grey, or as under a neutral light. [default: rgb]")]
OnDevice = Annotated[Device | None, typer.Option(help="Where to compute. [default: auto]")]
ByEngine = Annotated[
    EngineChoice | None,
    typer.Option("--engine", help="What computes; onnx and int8 need a bundle. [default: auto, the fastest but int8]"),
]
InPrecision = Annotated[Precision | None, typer.Option(help="How to compute. [default: auto]")]
Manifests = Annotated[Path, typer.Argument(help="manifest.parquet, or the folder that holds it.")]
Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="A manifest, or the folder that holds it; or images: files, folders, quoted patterns, zip archives.",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from leukolens import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only results and errors.")] = False,
) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("leukolens")
    logger.handlers[:] = [handler]
    processes = started_processes()
    # Of several processes the first speaks for all.
    logger.setLevel(logging.ERROR if quiet or not processes.is_leader else logging.INFO)
    if processes.are_several and context.invoked_subcommand != "train":
        raise SettingsError(
            f"torchrun started {processes.count} processes of `leukolens {context.invoked_subcommand}`.",
            expected="`leukolens train`, the one verb that several processes share",
            received=f"leukolens {context.invoked_subcommand}",
            remedy="start this verb without torchrun; `leukolens predict --ray` scores on several machines",
        )


@app.command(epilog="Example: `leukolens index C-NMC_Leukemia --out results`")
def index(
    directory: Annotated[Path, typer.Argument(help="Folder of images, one folder per class or any C-NMC layout.")],
    out: Out = DEFAULT_OUT,
    positive: Names = None,
    canvas: Canvas = None,
    strict: Strict = None,
    config: Config = None,
) -> None:
    """Read a folder of images: layout, labels, subjects, duplicates, and what has to be set aside."""
    from leukolens.data import manifest

    settings = _settings(IndexSettings, config, _index_flags(positive, canvas, strict))
    found = manifest.index(directory, out, settings)
    typer.echo("\n".join(manifest.flow_lines(found)))
    _say_written(out / "manifest.parquet", out / "flow.json", out / "set_aside.csv")


@app.command(epilog="Examples: `leukolens split results` · `leukolens split results --strategy image --folds 5`")
def split(
    manifest: Manifests,
    strategy: Annotated[SplitStrategy | None, typer.Option(help="How to split. [default: subject]")] = None,
    fractions: Fractions = None,
    folds: Annotated[int | None, typer.Option(help="k, 3 or more: one part tests, one validates, k-2 train.")] = None,
    split_file: SplitFile = None,
    seed: Seed = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write to. [default: the manifest's]")] = None,
    config: Config = None,
) -> None:
    """Put images on sides so that no subject and no duplicate stands on two, and print the audit."""
    from leukolens.data import splits

    flags = {"strategy": strategy, "fractions": _numbers(fractions), "folds": folds, "file": split_file, "seed": seed}
    settings = _settings(SplitSettings, config, flags)
    folder = out or (manifest if manifest.is_dir() else manifest.parent)
    made = splits.split(manifest, folder, settings)
    typer.echo("\n".join(made.record["audit"]))
    _say_written(folder / "splits.parquet")


@app.command(epilog="Example: `leukolens train results --arch resnet50 --out results/resnet50`")
def train(
    manifest: Manifests,
    arch: Annotated[str | None, typer.Option(help="Architecture, or `timm:<name>`. [default: resnet50]")] = None,
    splits: Annotated[Path | None, typer.Option(help="splits.parquet. [default: beside the manifest]")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run directory. [default: run, beside the manifest]")] = None,
    weights: Weights = None,
    weights_dir: WeightsDir = None,
    epochs: Epochs = None,
    head_only: HeadOnly = False,
    batch_size: BatchSize = None,
    input_px: InputPx = None,
    crop: CropTo = None,
    crop_px: CropPx = None,
    colour: InColour = None,
    trainable: TrainedPart = None,
    start_from: Annotated[
        Path | None,
        typer.Option(help="Run directory, of other data, whose backbone is the start.", exists=True, file_okay=False),
    ] = None,
    fold: Annotated[int | None, typer.Option(help="Fold of a k-fold split. [default: 0]")] = None,
    aim: Aim = None,
    seed: Seed = None,
    device: OnDevice = None,
    precision: InPrecision = None,
    config: Config = None,
) -> None:
    """Train one network: a head on frozen features, then fine-tuning. Interrupted, the same command goes on.

    On several GPUs or hosts: `torchrun --nproc-per-node N -m leukolens train …` (docs/scaling.md).

    Temperature and threshold are fitted on validation and travel with the run. On a finished run another --aim fits only
    them anew.
    """
    from leukolens.training import train as training

    flags = {"architecture": arch, "weights": weights, "weights_dir": weights_dir, "batch_size": batch_size,
             "finetune_epochs": _epochs(epochs, head_only), "input_px": input_px, "fold": fold, "seed": seed,
             "device": device, "precision": precision, "decision": _aim(aim),
             "input": _input_flags(crop, crop_px, colour), "trainable": trainable, "start_from": start_from}  # fmt: skip
    settings = _settings(TrainSettings, config, flags)
    folder = manifest if manifest.is_dir() else manifest.parent
    out = out or folder / "run"
    run = training.train(manifest, splits or folder, out, settings, folder / training.CACHE_FOLDER)
    if not started_processes().is_leader:
        return
    typer.echo(f"validation balanced accuracy {run.record['validation_balanced_accuracy']:.3f} "
               f"({run.record['best_phase']}, epoch {run.record['best_epoch']})")  # fmt: skip
    _say_written(out / "run.json", out / "weights.safetensors", out / "decision.json")


@app.command(
    epilog="Examples: `leukolens predict results/run results` · "
    "`leukolens predict results/run new --all --abstain 0.1 --out scores` · "
    "`leukolens predict results/run cell.png slides 'more/*.bmp' cells.zip --out scores.csv`"
)
def predict(
    run: Annotated[Path, typer.Argument(metavar="MODEL", help="Run directory, or a bundle made from one.")],
    inputs: Inputs,
    splits: Annotated[Path | None, typer.Option(help="splits.parquet. [default: beside the manifest]")] = None,
    every: Annotated[bool, typer.Option("--all", help="Score every image, of other data too; needs --out.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder to write to [default: the run's]; of images, a .csv or .parquet "
                     "[default: scores.csv in the present folder]."),
    ] = None,
    abstain: Annotated[
        float | None,
        typer.Option(help="Do not answer where more than this share of answers may be wrong, or the image is unlike a cell. "
                     "[default: always answer; of images, 0.1]"),
    ] = None,
    tta: Annotated[bool | None, typer.Option("--tta", help="Mean over 8 flips and quarter turns; 8 times as long.")] = None,
    device: OnDevice = None,
    engine: ByEngine = None,
    ray: Annotated[bool, typer.Option("--ray", help="In shards, for millions of images; needs --out.")] = False,
    workers: Annotated[int | None, typer.Option(help="With --ray: processes. [default: by the cores]")] = None,
    cores_per_worker: Annotated[int | None, typer.Option(help="With --ray: threads of each. [default: 2]")] = None,
    images_per_shard: Annotated[int | None, typer.Option(help="With --ray. [default: 4096]")] = None,
    address: Annotated[str | None, typer.Option(help="With --ray: a running cluster, or auto. [default: none]")] = None,
) -> None:
    """Score images with a trained run: the validation and test images of a manifest, or any images at all.

    Of images the table has one row per input in the order given; the exit status is 3 if any of them has no score.

    With --ray the same command goes on where it stopped, and the scores are parts in --out/parts (docs/scaling.md).
    """
    shards = {"workers": workers, "cores_per_worker": cores_per_worker, "images_per_shard": images_per_shard,
              "address": address}  # fmt: skip
    if not ray and any(value is not None for value in shards.values()):
        raise typer.BadParameter("--workers, --cores-per-worker, --images-per-shard and --address go with --ray")
    flags = {"abstain": abstain, "tta": tta, "device": device, "engine": engine, "shards": shards}
    settings = _settings(PredictSettings, None, flags)
    if not _is_one_manifest(inputs, splits is not None or every or ray, "--splits, --all and --ray"):
        _predict_inputs(run, inputs, out, settings)
        return
    manifest = Path(inputs[0])
    folder = manifest if manifest.is_dir() else manifest.parent
    score = _predict_in_shards if ray else _predict_manifest
    score(run, manifest, None if every else splits or folder, out, settings)


def _is_one_manifest(inputs: list[str], is_wanted: bool, flags: str) -> bool:
    """Whether a manifest was given and no loose images; `flags` are those that want one."""
    from leukolens.prediction.inputs import is_manifest

    if len(inputs) > 1 and is_wanted:
        raise typer.BadParameter(f"{flags} go with one manifest and nothing else")
    return is_wanted or (len(inputs) == 1 and is_manifest(inputs[0]))


def _predict_manifest(run: Path, manifest: Path, splits: Path | None, out: Path | None, settings: PredictSettings) -> None:
    from leukolens.prediction import predict as prediction

    cache = (manifest if manifest.is_dir() else manifest.parent) / "cache"
    scored = prediction.predict(run, manifest, splits, out, cache, settings)
    typer.echo(f"{len(scored.table)} images, {scored.record['images_per_second']:.1f} images/s")
    if settings.abstain is not None:
        refused = scored.table["refusal"].value_counts()
        typer.echo(f"not answered: {refused.sum()}" + "".join(f"\n  {count} {reason}" for reason, count in refused.items()))
    _say_written((out or run) / "predictions.parquet")


def _predict_inputs(run: Path, inputs: list[str], out: Path | None, settings: PredictSettings) -> None:
    from leukolens.prediction import stream

    scored = stream.predict_inputs(run, inputs, out, settings)
    typer.echo("\n".join(stream.summary_lines(scored)))
    _say_written(scored.path)
    if scored.failed:
        raise typer.Exit(EXIT_FAILED_INPUTS)


def _predict_in_shards(run: Path, manifest: Path, splits: Path | None, out: Path | None, settings: PredictSettings) -> None:
    from leukolens.prediction import ray_scoring

    if out is None:
        raise typer.BadParameter("--ray needs a folder for its parts: give --out")
    done = ray_scoring.predict_in_shards(run, manifest, splits, out, settings)
    typer.echo(f"{done['scored']} images scored, {done['failures']} could not be; "
               f"{done['shards_done_before']} of {done['shards']} shards were done before")  # fmt: skip
    _say_written(out / "parts", *([out / "failures"] if done["failures"] else []), out / "scored.json")


@app.command(
    epilog="Examples: `leukolens explain results/run results --out maps` · "
    "`leukolens explain results/run results --images '*UID_H10_*' --class HEM --out maps` · "
    "`leukolens explain bundle cell.png slides 'more/*.bmp' cells.zip --out maps`"
)
def explain(
    run: Annotated[Path, typer.Argument(metavar="MODEL", help="Run directory, or a bundle made from one.")],
    inputs: Inputs,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to; an earlier sheet in it is replaced.")],
    splits: Annotated[Path | None, typer.Option(help="splits.parquet. [default: beside the manifest]")] = None,
    every: Annotated[bool, typer.Option("--all", help="Of every image, of other data too.")] = False,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Name as in the manifest, or a pattern, repeatable. [default: least certain, and surest mistakes]"),
    ] = None,
    count: Annotated[int | None, typer.Option(help="Test images, or loose images, to choose. [default: 24]")] = None,
    method: Annotated[str | None, typer.Option(help="METHOD[,METHOD]. [default: gradcam,eigencam]")] = None,
    target_class: Annotated[str | None, typer.Option("--class", help="Whose score. [default: the positive class]")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer to weigh. [default: the last before the pooling]")] = None,
    abstain: Annotated[
        float | None, typer.Option(help="As in predict. [default: refuse only what is unlike a cell; of images, 0.1]")
    ] = None,
    device: OnDevice = None,
) -> None:
    """Draw where a run's score is sensitive: an overlay per image and method, a contact sheet, and how much lies on the cell.

    Of images without a manifest those are drawn that the model is least certain of; the exit status is 3 if any has no score.

    A map shows where the score is sensitive, not why the cell is malignant (docs/explanations.md).
    """
    flags = {"images": tuple(images) if images else None, "count": count, "methods": _names(method), "layer": layer,
             "target_class": target_class, "abstain": abstain, "device": device}  # fmt: skip
    settings = _settings(ExplainSettings, None, flags)
    if not _is_one_manifest(inputs, splits is not None or every, "--splits and --all"):
        _explain_inputs(run, inputs, out, settings)
        return
    from leukolens.explanation import explain as explanation

    manifest = Path(inputs[0])
    folder = manifest if manifest.is_dir() else manifest.parent
    made = explanation.explain(run, manifest, None if every else splits or folder, out, folder / "cache", settings)
    typer.echo("\n".join(explanation.summary_lines(made.table)))
    _say_written(out / "contact_sheet.png", out / "maps.csv", out / "overlays")


def _explain_inputs(run: Path, inputs: list[str], out: Path, settings: ExplainSettings) -> None:
    from leukolens.explanation import explain_inputs as explanation

    made = explanation.explain_inputs(run, inputs, out, settings)
    typer.echo("\n".join(explanation.summary_lines(made)))
    _say_written(*([out / "contact_sheet.png", out / "overlays"] if len(made.maps.table) else []), out / "maps.csv",
                 made.scored.path)  # fmt: skip
    if made.scored.failed:
        raise typer.Exit(EXIT_FAILED_INPUTS)


@app.command(
    epilog="Examples: `leukolens export results/run --manifest results --out bundle` · "
    "`leukolens export results/run --manifest results --format openvino --format int8 --out bundle`"
)
def export(
    run: Annotated[Path, typer.Argument(help="Run directory written by train.")],
    manifest: Annotated[Path, typer.Option(help="manifest.parquet of its data, or the folder that holds it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle; must not exist or be empty.")],
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="Repeatable. [default: onnx and openvino]")
    ] = None,
    splits: Annotated[Path | None, typer.Option(help="splits.parquet of the run. [default: beside the manifest]")] = None,
    cells: Annotated[int | None, typer.Option(help="Validation cells to try each format on, at most. [default: 256]")] = None,
    accept_loss: Annotated[
        bool | None, typer.Option("--accept-loss", help="Keep the 8-bit network whatever accuracy it costs.")
    ] = None,
    config: Config = None,
) -> None:
    """Make a bundle of a run: all that is needed to use it elsewhere, and the network in formats of other programs.

    Each format is tried on validation cells of the data first. `leukolens predict` takes a bundle as it takes a run.
    """
    from leukolens.serving import export as serving

    flags = {"formats": tuple(formats) if formats else None, "cells": cells, "accept_loss": accept_loss}
    settings = _settings(ExportSettings, config, flags)
    folder = manifest if manifest.is_dir() else manifest.parent
    bundle = serving.export(run, manifest, splits or folder, out, settings)
    typer.echo("\n".join(serving.summary_lines(bundle)))
    _say_written(out / "bundle.json", out / "export.json", *bundle.engines.values())


@app.command(
    epilog="Examples: `leukolens serve results/run` · "
    "`leukolens serve cells=bundle --host 0.0.0.0 --token-file token --results results`"
)
def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="Run directories or bundles, as PATH or NAME=PATH.")
    ],
    host: Annotated[str | None, typer.Option(help="Address; all but loopback need a token. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes any that is free. [default: 8341]")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File that holds the token. [default: the variable LEUKOLENS_TOKEN, or none]")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="Results folder whose report.html is shown too.")] = None,
    abstain: Annotated[float | None, typer.Option(help="As in predict. [default: 0.1]")] = None,
    device: OnDevice = None,
    engine: ByEngine = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Another page that may ask from a browser, https://HOST. Repeatable.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name of this server, of a proxy before it say. Repeatable.")
    ] = None,
    json_logs: Annotated[bool | None, typer.Option("--json-logs", help="Log lines as JSON.")] = None,
    config: Config = None,
) -> None:
    """Answer over HTTP what predict would write, and show a page for it in the browser (docs/serving.md).

    SIGTERM or Ctrl-C answers what is under way and stops; SIGHUP reads the models and the token again.
    """
    from leukolens.serving import serve as serving

    flags = {"host": host, "port": port, "token_file": token_file, "results": results, "abstain": abstain, "device": device,
             "engine": engine, "allow_origin": tuple(allow_origin) if allow_origin else None,
             "allow_host": tuple(allow_host) if allow_host else None, "json_logs": json_logs}  # fmt: skip
    serving.serve(models, _settings(ServeSettings, config, flags), typer.echo)


@app.command(epilog="Examples: `leukolens evaluate results/run` · `leukolens evaluate other_tool.csv --positive ALL --out .`")
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="predictions.parquet, or any CSV of image,subject,y_true,y_score.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write to. [default: beside]")] = None,
    positive: Names = None,
    resamples: Resamples = None,
    seed: Seed = None,
    config: Config = None,
) -> None:
    """Measure predictions: accuracy, sensitivity, specificity, F1, MCC, AUROC and the rest, with intervals over subjects.

    In a CSV, y_score is the probability of the class that --positive names (ALL, or 1, where it is left out).
    """
    from leukolens import terminal
    from leukolens.evaluation import evaluate as evaluation

    settings = _settings(EvaluateSettings, config, {"resamples": resamples, "seed": seed})
    folder = out or (predictions if predictions.is_dir() else predictions.parent)
    metrics = evaluation.evaluate(predictions, folder, positive=_names(positive), settings=settings)
    terminal.print_metrics(metrics)
    _say_written(folder / "metrics.json")


@app.command(epilog="Example: `leukolens report results`")
def report(
    results: Annotated[Path, typer.Argument(help="Folder written by compare, crossval, train or evaluate.")],
) -> None:
    """Write the HTML report of a results folder, or of one metrics.json (of another tool's scores too)."""
    from leukolens.reporting import html

    _say_written(html.report(results))


@app.command(
    epilog="Examples: `leukolens compare C-NMC_Leukemia --protocol both --out results` · "
    "`leukolens compare smears --positive Early,Pre,Pro --split image --head-only`"
)
def compare(
    directory: Annotated[Path, typer.Argument(help="Folder of images, one folder per class or any C-NMC layout.")],
    out: Out = DEFAULT_OUT,
    arch: Annotated[list[str] | None, typer.Option(help="Architecture, repeatable. [default: the five]")] = None,
    protocol: Annotated[
        Literal["subject", "image", "official", "file", "both"] | None,
        typer.Option("--protocol", "--split", "--strategy", help="How to split; both: subject and image. [default: subject]"),
    ] = None,
    positive: Names = None,
    canvas: Canvas = None,
    strict: Strict = None,
    fractions: Fractions = None,
    split_file: SplitFile = None,
    weights: Weights = None,
    weights_dir: WeightsDir = None,
    epochs: Epochs = None,
    head_only: HeadOnly = False,
    batch_size: BatchSize = None,
    input_px: InputPx = None,
    crop: CropTo = None,
    crop_px: CropPx = None,
    colour: InColour = None,
    folds: Annotated[
        int | None, typer.Option(help="Folds of the cross-validation on frozen features; 0 leaves it out. [default: 5]")
    ] = None,
    repeats: Repeats = None,
    tta: Tta = None,
    foreign: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER of images that are no such cells: how many are refused? Repeatable."),
    ] = None,
    aim: Aim = None,
    resamples: Resamples = None,
    seed: Seed = None,
    device: OnDevice = None,
    precision: InPrecision = None,
    config: Config = None,
) -> None:
    """Index, split, train and cross-validate every architecture, measure and report. Interrupted, the same command goes on."""
    from leukolens import pipeline, terminal
    from leukolens.reporting.published import published_in

    flags = {
        "architectures": tuple(arch) if arch else None,
        "protocol": protocol or ("file" if split_file else None),
        "index": _index_flags(positive, canvas, strict),
        "split": {"fractions": _numbers(fractions), "file": split_file, "seed": seed,
                  "strategy": "file" if split_file else None},
        "train": {"weights": weights, "weights_dir": weights_dir, "finetune_epochs": _epochs(epochs, head_only),
                  "batch_size": batch_size, "input_px": input_px, "seed": seed, "device": device, "precision": precision,
                  "decision": _aim(aim), "input": _input_flags(crop, crop_px, colour)},
        "evaluate": {"resamples": resamples, "seed": seed},
        "folds": folds, "repeats": repeats, "tta": tta, "foreign": _named_folders(foreign),
    }  # fmt: skip
    compared = pipeline.compare(directory, out, _settings(CompareSettings, config, flags))
    terminal.print_comparison(compared.table)
    terminal.print_published(published_in(compared.results))
    _say_written(out / "comparison.csv", compared.report)


@app.command(epilog="Example: `leukolens crossval results --arch resnet50 --folds 5 --repeats 3`")
def crossval(
    manifest: Manifests,
    arch: Annotated[list[str] | None, typer.Option(help="Architecture, repeatable. [default: the five]")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Results folder. [default: crossvalidated, beside the manifest]")
    ] = None,
    strategy: Annotated[
        Literal["subject", "image"] | None,
        typer.Option("--strategy", "--split", help="Whole subjects, or images. [default: subject]"),
    ] = None,
    folds: Folds = None,
    repeats: Repeats = None,
    weights: Weights = None,
    weights_dir: WeightsDir = None,
    epochs: Annotated[
        int | None, typer.Option(help="Fine-tuning epochs at most. [default: 0, heads on frozen features]")
    ] = None,
    crop: CropTo = None,
    crop_px: CropPx = None,
    colour: InColour = None,
    tta: Tta = None,
    aim: Aim = None,
    resamples: Resamples = None,
    seed: Seed = None,
    device: OnDevice = None,
    config: Config = None,
) -> None:
    """Cross-validate networks beside their baselines: out-of-fold scores, intervals, paired differences, a report."""
    from leukolens import pipeline, terminal

    flags = {
        "architectures": tuple(arch) if arch else None, "strategy": strategy, "folds": folds, "repeats": repeats, "tta": tta,
        "seed": seed, "evaluate": {"resamples": resamples, "seed": seed},
        "train": {"weights": weights, "weights_dir": weights_dir, "finetune_epochs": epochs, "device": device,
                  "decision": _aim(aim), "input": _input_flags(crop, crop_px, colour)},
    }  # fmt: skip
    folder = manifest if manifest.is_dir() else manifest.parent
    settings = _settings(CrossvalSettings, config, flags)
    compared = pipeline.crossval(manifest, out or folder / "crossvalidated", settings, folder / "cache")
    terminal.print_comparison(compared.table)
    _say_written(compared.results / "comparison.csv", compared.report)


@app.command(
    epilog="Examples: `leukolens phantom phantom-cells --cells 240` · `leukolens phantom phantom-cells --like c-nmc-2019`"
)
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write the data set into.")],
    cells: Annotated[int | None, typer.Option(help="Training cells. [default: 240]")] = None,
    subjects: Annotated[int | None, typer.Option(help="Training subjects. [default: 24]")] = None,
    like: Annotated[
        Literal["c-nmc-2019"] | None,
        typer.Option(help="Cells of each subject, and shared cells, as in the published set: 15,114 images, 10.4 GB."),
    ] = None,
    seed: Seed = None,
) -> None:
    """Write synthetic cells of synthetic subjects, in the folder layout of C-NMC 2019."""
    from leukolens.data import phantom as phantoms

    settings = _settings(PhantomSettings, None, {"cells": cells, "subjects": subjects, "like": like, "seed": seed})
    _say_written(phantoms.phantom(out, settings))


@app.command(epilog="Examples: `leukolens fetch c-nmc --out data` · `leukolens fetch weights --out weights`")
def fetch(
    what: Annotated[Literal["c-nmc", "weights"], typer.Argument(help="C-NMC 2019 from Kaggle, or pretrained weights.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    arch: Annotated[list[str] | None, typer.Option(help="For weights, repeatable. [default: the five]")] = None,
) -> None:
    """Download data or weights, check them, and only then call them finished. Interrupted, the same command goes on.

    Kaggle may ask who you are: put a token of kaggle.com (Settings, API) into the variable KAGGLE_API_TOKEN. Weights go into
    a folder that --weights-dir of other verbs reads, on machines without a network too.
    """
    from leukolens import fetching

    fetched = fetching.fetch(what, out, tuple(arch or ()))
    typer.echo("\n".join(fetched.summary_lines()))
    _say_written(fetched.folder)


@app.command(epilog="Examples: `leukolens doctor` · `leukolens doctor --out results --weights-dir weights --json`")
def doctor(
    out: Out = DEFAULT_OUT,
    weights_dir: WeightsDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what is installed, what the machine gives, which weights there are and what is missing; status 1 where not fit."""
    from leukolens.diagnosis import doctor as diagnosis

    found = diagnosis.doctor(out, weights_dir)
    typer.echo(json.dumps(found.to_record(), indent=1) if as_json else "\n".join(found.summary_lines()))
    if not found.is_fit:
        raise typer.Exit(EXIT_ERROR)


def main() -> None:
    """Run the command line; `leukolens` calls this."""
    try:
        app()
    except LeukolensError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_ERROR)
    except OSError as error:
        typer.echo(f"error: {error}\n  remedy:   check that the path exists, may be written and has room", err=True)
        sys.exit(EXIT_ERROR)
    except SystemExit as stopped:  # Typer itself turns Ctrl-C into this status
        if stopped.code == EXIT_INTERRUPTED:
            typer.echo("interrupted; nothing half-written is left, give the same command to go on", err=True)
        raise


def _settings(model: type[_AnySettings], config: Path | None, flags: dict[str, Any]) -> _AnySettings:
    """Defaults < YAML file < flags; a flag that was not given is None."""
    from pydantic import ValidationError

    given = _merge(read_settings_file(config) if config else {}, flags)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the settings"
        wanted = first["msg"].removeprefix("Input should be ")
        is_value = wanted != first["msg"]
        raise SettingsError(
            f"{where}: {first['msg']}.",
            expected=wanted if is_value else f"settings of {model.__name__}: {', '.join(model.model_fields)}",
            received=shortened(first["input"]),
            remedy="correct the flag or the settings file; `leukolens VERB --help` lists them",
        ) from error


def _merge(file: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    merged = dict(file)
    for name, value in flags.items():
        if isinstance(value, dict):
            section = file.get(name, {})
            merged[name] = _merge(section, value) if isinstance(section, dict) else section  # settings will name it
        elif value is not None:
            merged[name] = value
    return merged


def _epochs(epochs: int | None, head_only: bool) -> int | None:
    if head_only and epochs:
        raise typer.BadParameter("--head-only means --epochs 0: give one of them")
    return 0 if head_only else epochs


def _aim(text: str | None) -> dict[str, Any]:
    """Read "balanced_accuracy" or "sensitivity:0.95"."""
    if text is None:
        return {}
    aim, _, least = text.partition(":")
    return {"aim": aim, "sensitivity": least or None}


def _named_folders(texts: list[str] | None) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts or []]
    if bad := [name for name, _, folder in pairs if not name or not folder]:
        raise typer.BadParameter(f"--foreign takes NAME=FOLDER, received {bad[0]!r}")
    return {name: folder for name, _, folder in pairs}


def _index_flags(positive: str | None, canvas: str | None, strict: bool | None) -> dict[str, Any]:
    return {"positive": _names(positive), "canvas_px": canvas.lower().split("x") if canvas else None, "strict": strict}


def _input_flags(crop: Crop | None, crop_px: int | None, colour: Colour | None) -> dict[str, Any]:
    return {"crop": crop, "crop_px": crop_px, "colour": colour}


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else None


def _numbers(text: str | None) -> tuple[str, ...] | None:
    return tuple(text.split(",")) if text else None


def _say_written(*paths: Path) -> None:
    for path in paths:
        typer.echo(f"written: {path}")


if __name__ == "__main__":
    main()

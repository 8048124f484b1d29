"""Load on the server: thousands of requests at a time, every answer compared with what `leukolens predict` wrote.

In: a model and images, or nothing (phantom cells and a network of random weights, which costs as much). Out: a table. Writes:
results/load.json beside this file and, with --page, the table in docs/security.md. All else lies in a temporary folder.

The server is a process of its own on a free port of the loopback address; the clients are threads that keep their
connections. Seven requests of ten send one cell, two send two to eight, one in twenty a zip of three, one in twenty a hostile
file among cells. Each row of each answer must equal predict's row for the same file in every column but its name; a refusal
for now (429) is counted and sent again. Memory is read once a second. Afterwards the same pixels are computed by two loops
without a server: ONNX Runtime on the exported network, and the engine that the server used, 32 cells at a time.

    python benchmarks/load.py                                        # 20,000 requests, 16 connections
    python benchmarks/load.py --requests 500 --model bundle --images cells
"""

from __future__ import annotations

import argparse
import http.client
import io
import itertools
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hostile_corpus.case import Good, Sandbox
from hostile_corpus.headers import header_cases
from hostile_corpus.trying import Limits
from hostile_corpus.uploading import Served, memory_bytes, multipart

from leukolens.artifacts import Record, write_json
from leukolens.provenance import hardware, versions

RESULTS = Path(__file__).parent / "results" / "load.json"
PAGE = Path(__file__).parents[1] / "docs" / "security.md"
SEED = 20261123
REQUESTS, CONNECTIONS = 20_000, 16

_BEGIN, _END = "<!-- load: begin -->", "<!-- load: end -->"
_NETWORK = "efficientnet_b0"
_HOSTILE_PER_FORMAT = 12
_BATCH = 32
_LOOP_SECONDS = 10.0
_MIB = 1 << 20
_WARM_SHARE = 0.1
_IMAGE_SUFFIXES = (".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
# The name and the place are the request's; times are not scores.
_NOT_COMPARED = ("input", "index")


@dataclass
class Seen:
    """What the clients have seen."""

    latencies: list[tuple[float, int]] = field(default_factory=list)  # seconds, rows
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    rows: int = 0
    memory: list[tuple[int, int]] = field(default_factory=list)  # requests answered so far, bytes


@dataclass(frozen=True)
class Job:
    """One request: the files that it sends, and for each row of the answer the file that it is about."""

    files: list[tuple[str, bytes]]
    rows: list[str]


class Load:
    """Requests of one seed against one server.

    Args:
        port: of the server.
        files: what is sent, by name.
        wanted: predict's row of each, by name.
        seed: of the choice.
    """

    def __init__(self, port: int, files: dict[str, bytes], wanted: dict[str, Record], seed: int) -> None:
        self.port = port
        self.files = files
        self.wanted = wanted
        self.seed = seed
        self.good = [name for name, row in wanted.items() if row["status"] == "scored" and not name.startswith("hostile")]
        self.hostile = [name for name in wanted if name.startswith("hostile")]
        self.seen = Seen()
        self.lock = threading.Lock()

    def run(self, requests: int, connections: int, process: int) -> float:
        """Send so many requests over so many connections; give the seconds that it took."""
        numbers, is_over = iter(range(requests)), threading.Event()
        sampler = threading.Thread(target=self._sample, args=(process, is_over))
        clients = [threading.Thread(target=self._ask_all, args=(numbers,)) for _ in range(connections)]
        began = time.perf_counter()
        for thread in (sampler, *clients):
            thread.start()
        for client in clients:
            client.join()
        seconds = time.perf_counter() - began
        is_over.set()
        sampler.join()
        return seconds

    def job(self, number: int) -> Job:
        """The request of a number: always the same for the same seed."""
        chance = random.Random(f"{self.seed} {number}")  # noqa: S311
        kind = chance.random()
        if kind < 0.7:
            names = [chance.choice(self.good)]
        elif kind < 0.9:
            names = chance.choices(self.good, k=chance.randint(2, 8))
        elif kind < 0.95:
            return self._archive(sorted(chance.sample(self.good, min(3, len(self.good)))))
        else:
            names = [chance.choice(self.good), chance.choice(self.hostile), chance.choice(self.good)]
        return Job([(name, self.files[name]) for name in names], names)

    def _archive(self, names: list[str]) -> Job:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, self.files[name])
        return Job([("cells.zip", file.getvalue())], names)

    def _ask_all(self, numbers: Iterator[int]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        while True:
            with self.lock:
                number = next(numbers, None)
            if number is None:
                break
            try:
                self._ask(connection, number)
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                connection.close()
                with self.lock:
                    self.seen.wrong.append(f"request {number}: {type(error).__name__}: {error}")
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, number: int) -> None:
        job = self.job(number)
        body, kind = multipart(job.files)
        began = time.perf_counter()
        while True:
            connection.request("POST", "/v1/predict", body, {"Content-Type": kind, "Accept": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            with self.lock:
                self.seen.statuses[response.status] += 1
            if response.status != http.client.TOO_MANY_REQUESTS:
                break
            time.sleep(float(response.headers["Retry-After"]))
        seconds = time.perf_counter() - began
        wrong = self._differences(number, job, response.status, answer)
        with self.lock:
            self.seen.latencies.append((seconds, len(job.rows)))
            self.seen.rows += len(job.rows)
            self.seen.wrong += wrong

    def _differences(self, number: int, job: Job, status: int, answer: bytes) -> list[str]:
        if status != http.client.OK:
            return [f"request {number}: status {status}: {answer[:200]!r}"]
        rows = json.loads(answer)["results"]
        if len(rows) != len(job.rows):
            return [f"request {number}: {len(rows)} rows in place of {len(job.rows)}"]
        return [
            f"request {number}, {name}: {column} {row.get(column)!r} in place of {value!r}"
            for name, row in zip(job.rows, rows, strict=True)
            for column, value in self.wanted[name].items()
            if column not in _NOT_COMPARED and row.get(column) != value
        ]

    def _sample(self, process: int, is_over: threading.Event) -> None:
        while not is_over.wait(1.0):
            self.seen.memory.append((len(self.seen.latencies), memory_bytes(process)))


def wanted_rows(table: pd.DataFrame, folder: Path) -> dict[str, Record]:
    """Rows of predict's table by file name, with None where a cell is empty."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return {str(Path(row["input"]).relative_to(folder)): row for row in rows}


def summary(load: Load, requests: int, seconds: float) -> Record:
    """Figures: latency in milliseconds, rates, memory in MiB and its growth after the first tenth of the requests."""
    seen = load.seen
    every = np.array([found for found, _ in seen.latencies]) * 1e3
    single = np.array([found for found, rows in seen.latencies if rows == 1]) * 1e3
    done, memory = np.array([(count, value / _MIB) for count, value in seen.memory] or np.zeros((0, 2))).T
    warm = done >= _WARM_SHARE * requests
    slope = float(np.polyfit(done[warm], memory[warm], 1)[0] * 1e3) if warm.sum() > 2 else None
    return {
        "requests": requests,
        "rows": seen.rows,
        "seconds": seconds,
        "statuses": {str(status): count for status, count in seen.statuses.items()},
        "wrong": len(seen.wrong),
        "wrong_shown": seen.wrong[:20],
        "requests_per_second": requests / seconds,
        "cells_per_second": seen.rows / seconds,
        "ms": {"p50": float(np.percentile(every, 50)), "p99": float(np.percentile(every, 99)), "most": float(every.max())},
        "ms_of_one_cell": {"p50": float(np.percentile(single, 50)), "p99": float(np.percentile(single, 99))}
        if len(single)
        else None,
        "memory_mib": {
            "after_a_tenth": float(memory[warm][0]) if warm.any() else None,
            "at_the_end": float(memory[-1]) if len(memory) else None,
            "most": float(memory.max()) if len(memory) else None,
            "growth_per_1000_requests": slope,
        },
        "memory_samples": [(int(count), round(float(value), 1)) for count, value in zip(done, memory, strict=True)],
    }


def loops(model: Path, files: dict[str, bytes], names: list[str]) -> Record:
    """Cells per second of the same pixels without a server, 32 at a time, decoding left out."""
    from leukolens.data.preprocessing import read_encoded
    from leukolens.models.compute import tune_allocator
    from leukolens.models.exported import INPUT_NAME, onnx_session
    from leukolens.settings import IndexSettings
    from leukolens.training.runs import Run

    tune_allocator()
    run, most = Run.load(model), IndexSettings().max_pixels
    chosen = list(itertools.islice(itertools.cycle(names), 4 * _BATCH))
    began = time.perf_counter()
    pixels = np.stack([run.preprocessing.apply(read_encoded(files[name], Path(name), most).trimmed) for name in chosen])
    decoding = len(chosen) / (time.perf_counter() - began)
    batches = [pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH)]
    extractor = run.extractor(_BATCH)
    extractor.ready()
    found = {
        "engine": extractor.compute.engine,
        "engine_precision": extractor.compute.inference_precision,
        "engine_cells_per_second": _rate(extractor, batches),
        "decoding_cells_per_second_of_one_thread": decoding,
    }
    if (model / "network.onnx").is_file():
        session = onnx_session(model / "network.onnx")
        found["onnxruntime_cells_per_second"] = _rate(lambda batch: session.run(None, {INPUT_NAME: batch}), batches)
        found["onnxruntime_one_at_a_time"] = _rate(lambda cell: session.run(None, {INPUT_NAME: cell}), list(pixels[:, None]))
    return found


def _rate(compute: Any, batches: list[Any]) -> float:  # noqa: ANN401
    compute(batches[0])
    cells, began = 0, time.perf_counter()
    for batch in itertools.cycle(batches):
        compute(batch)
        cells += len(batch)
        if (seconds := time.perf_counter() - began) > _LOOP_SECONDS:
            return cells / seconds
    raise RuntimeError("no batch")


def make_model(work: Path, network: str) -> tuple[Path, Path]:
    """Draw phantom cells, train a head on random weights, export to ONNX; give the bundle and the folder of cells."""
    from leukolens import export, index, phantom, split, train
    from leukolens.settings import ExportSettings, PhantomSettings, TrainSettings

    phantom(work / "phantom", PhantomSettings())
    cells = next((work / "phantom").glob("phantom*"))
    manifest = index(cells, work / "results")
    splits = split(manifest, work / "results")
    run = train(
        manifest, splits, work / "run", TrainSettings(architecture=network, weights="none", finetune_epochs=0, device="cpu")
    )
    export(run, manifest, splits, work / "bundle", ExportSettings(formats=("onnx",), cells=16))
    return work / "bundle", cells


def gather(images: Path, folder: Path, most: int) -> dict[str, bytes]:
    """Copy cells, and hostile files beside them, into one folder under short names; give their bytes by name."""
    folder.mkdir()
    paths = [path for path in sorted(images.rglob("*")) if path.suffix.lower() in _IMAGE_SUFFIXES and path.is_file()]
    files = {f"cell{number:04}{path.suffix.lower()}": path.read_bytes() for number, path in enumerate(paths[:most])}
    for number, case in enumerate(header_cases(SEED, _HOSTILE_PER_FORMAT)):
        if case.upload is not None:
            files[f"hostile{number:03}{Path(case.upload.name).suffix}"] = case.upload.data()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


def table_lines(found: Record) -> list[str]:
    """The figures as Markdown."""
    one, memory, loop = found["ms_of_one_cell"] or {}, found["memory_mib"], found["loops"]
    rows = [
        ("requests, connections", f"{found['requests']:,}, {found['connections']}"),
        ("rows compared with predict's, wrong ones", f"{found['rows']:,}, {found['wrong']}"),
        ("refused for now (429) and sent again", f"{found['statuses'].get('429', 0):,}"),
        ("cells per second, requests per second", f"{found['cells_per_second']:.0f}, {found['requests_per_second']:.1f}"),
        ("answer of one cell: p50, p99", f"{one.get('p50', 0):.0f} ms, {one.get('p99', 0):.0f} ms"),
        ("any answer: p50, p99", f"{found['ms']['p50']:.0f} ms, {found['ms']['p99']:.0f} ms"),
        (
            "memory after a tenth, at the end, most",
            f"{memory['after_a_tenth'] or 0:,.0f}, {memory['at_the_end'] or 0:,.0f}, {memory['most'] or 0:,.0f} MiB",
        ),
        ("memory's growth per 1,000 requests after the first tenth", f"{memory['growth_per_1000_requests'] or 0:+.2f} MiB"),
        (
            f"the same pixels without a server, {loop['engine']} {loop['engine_precision']}",
            f"{loop['engine_cells_per_second']:.0f} cells/s",
        ),
        (
            "the same, ONNX Runtime float32, 32 at a time / one at a time",
            f"{loop.get('onnxruntime_cells_per_second', 0):.0f} / {loop.get('onnxruntime_one_at_a_time', 0):.0f} cells/s",
        ),
        ("decoding in one thread", f"{loop['decoding_cells_per_second_of_one_thread']:.0f} cells/s"),
    ]
    return ["| what | figure |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in rows)]


def write_page(results: Record, page: Path) -> None:
    """Put the table between its two marks in the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    page.write_text("\n".join([before + _BEGIN, *table_lines(results), _END + after]), encoding="utf-8")


def measure(options: argparse.Namespace, work: Path) -> Record:
    """Make what is missing, score the files by predict, load the server, run the loops."""
    model, images = (path and path.resolve() for path in (options.model, options.images))
    if model is None or images is None:
        model, images = make_model(work, options.network)
    files = gather(images, work / "files", options.cells)
    command = [
        sys.executable,
        "-m",
        "leukolens",
        "predict",
        str(model),
        str(work / "files"),
        "--out",
        str(work / "scores.parquet"),
    ]
    if (done := subprocess.run(command, check=False)).returncode not in (0, 3):  # noqa: S603
        raise RuntimeError(f"predict ended with {done.returncode}")
    wanted = wanted_rows(pd.read_parquet(work / "scores.parquet"), work / "files")
    with Served(Good(model, model, model), Sandbox(work / "sandbox"), Limits(), on="auto") as served:
        load = Load(served.port, files, wanted, options.seed)
        seconds = load.run(options.requests, options.connections, served.process.pid)
    said = {"model": load_name(model), "seed": options.seed, "connections": options.connections, "files": len(files)}
    return {**said, **summary(load, options.requests, seconds), "loops": loops(model, files, load.good)}


def load_name(model: Path) -> str:
    """What network a model is."""
    from leukolens.training.runs import Run

    record = Run.load(model).record
    return f"{record['display_name']}{', synthetic' if record['synthetic'] else ''}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, write, and say whether an answer was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--model", type=Path, help="Run or bundle. [default: a network of random weights, made here]")
    parser.add_argument("--images", type=Path, help="Folder of cells. [default: phantom cells]")
    parser.add_argument("--network", default=_NETWORK, help="Of the network that is made here.")
    parser.add_argument("--cells", type=int, default=400, help="Cells to send, at most.")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--page", action="store_true", help="Rewrite the table in docs/security.md.")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        results = {**measure(options, Path(temporary)), "hardware": hardware(), "versions": versions()}
    write_json(options.out, results)
    if options.page:
        write_page(results, PAGE)
    sys.stdout.write("\n".join(table_lines(results)) + "\n")
    return int(results["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())

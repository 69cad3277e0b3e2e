"""How teach, fuse and train grow: against tokens (x1, x4, x16), teachers (1, 2, 3) and k (8, 32, 96).

    python -m benchmarks.scaling.growth --out reports/growth.json

Every point is one process that runs one stage function on small corpora of WordNet's pages: CPU seconds of all threads
of the function, which other work on the machine changes less than seconds, and the memory that it takes beyond the
start. The exponent is the slope of log CPU seconds from the middle point to the last, where fixed costs weigh least;
beside it stands the fit of all points to fixed + slope x size. One run a point: exponents are good to a tenth or two.
The text stages are measured as commands, on larger texts (`benchmarks.scaling.text_growth`).
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.scaling.growth_stages import STEP_TOKENS
from benchmarks.speed.harness import isolated, processor, require
from benchmarks.speed.train import MODEL

SIZES = (1, 4, 16)
TEACHERS = (1, 2, 3)
K = (8, 32, 96)

PAGES = 64
"""Of 117 tokens, at x1."""

DEFAULT_K = 32
BYTES_PER_MEBIBYTE = 2**20

log = logging.getLogger(__name__)


class Points:
    """What was measured, by series: stage, what grows, how much of it, CPU seconds and bytes of memory."""

    def __init__(self) -> None:
        self.points: list[dict[str, Any]] = []

    def run(self, stage: str, *, against: str, size: float, folder: Path, **arguments: Any) -> None:
        """One child."""
        child = isolated(f"benchmarks.scaling.growth_stages:{stage}", folder=str(folder), **arguments)
        seconds, added = float(child.result), child.peak_bytes - child.start_bytes
        point = {"stage": stage, "against": against, "size": size, "cpu_seconds": round(seconds, 4), "bytes": added}
        self.points.append(point)
        log.info("%s, %s x %s: %.2f CPU s, %d MiB", stage, against, size, seconds, added // BYTES_PER_MEBIBYTE)


def corpora(root: Path, *, pages: int) -> dict[int, tuple[Path, int]]:
    """Three corpora, masked: the folder of each and its tokens, by size."""
    found = {}
    for size in SIZES:
        folder = root / f"x{size}"
        child = isolated("benchmarks.scaling.growth_stages:masked_text", folder=str(folder), pages=pages * size)
        found[size] = folder, int(child.result)
    return found


def model_points(points: Points, found: dict[int, tuple[Path, int]]) -> None:
    """Against tokens, then at the middle corpus against teachers and k."""
    for folder, tokens in found.values():
        at: dict[str, Any] = {"against": "tokens", "size": tokens, "folder": folder}
        points.run("teach", **at, name="one", k=DEFAULT_K)
        points.run("fuse", **at, teachers=["one"], k=DEFAULT_K)
        points.run("train", **at, targets=f"targets-{DEFAULT_K}/1", steps=_steps(tokens))
    folder, tokens = found[SIZES[1]]
    steps = _steps(tokens)
    _copies(folder / f"logits-{DEFAULT_K}")
    for count in TEACHERS:
        at = {"against": "teachers", "size": count, "folder": folder}
        if count > 1:
            points.run("fuse", **at, teachers=["one", "two", "three"][:count], k=DEFAULT_K)
            points.run("train", **at, targets=f"targets-{DEFAULT_K}/{count}", steps=steps)
        else:
            _again(points, ("fuse", "train"), tokens, against="teachers", size=count)
    for k in K:
        at = {"against": "k", "size": k, "folder": folder}
        if k == DEFAULT_K:
            _again(points, ("teach", "fuse", "train"), tokens, against="k", size=k)
            continue
        points.run("teach", **at, name="one", k=k)
        points.run("fuse", **at, teachers=["one"], k=k)
        points.run("train", **at, targets=f"targets-{k}/1", steps=steps)


def _steps(tokens: int) -> int:
    """Of about one epoch."""
    return max(1, int(tokens * 0.8 / STEP_TOKENS))


def _again(points: Points, stages: Sequence[str], tokens: int, *, against: str, size: float) -> None:
    """The points at `tokens` tokens are also points of another series."""
    for point in list(points.points):
        if point["stage"] in stages and point["against"] == "tokens" and point["size"] == tokens:
            points.points.append({**point, "against": against, "size": size})


def _copies(logits: Path) -> None:
    """The same store under two more names."""
    import shutil

    for name in ("two", "three"):
        shutil.copytree(logits / "one", logits / name)


def fitted(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each series the exponent of its last interval, and fixed + slope x size by least squares.

    CPU seconds and bytes of memory; memory that grows by less than a mebibyte has the exponent 0.
    """
    series: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for point in points:
        series.setdefault((point["stage"], point["against"]), []).append(point)
    found = []
    for (stage, against), members in series.items():
        members.sort(key=lambda point: float(point["size"]))
        size = np.array([point["size"] for point in members], float)
        line: dict[str, Any] = {"stage": stage, "against": against}
        for what, least in (("cpu_seconds", -math.inf), ("bytes", BYTES_PER_MEBIBYTE)):
            values = np.array([max(point[what], 1e-9) for point in members], float)
            slope, fixed = np.polyfit(size, values, 1)
            grown = values[-1] - values[-2] > least
            exponent = math.log(values[-1] / values[-2]) / math.log(size[-1] / size[-2]) if grown else 0.0
            line[what] = {"exponent": round(exponent, 3), "fixed": float(fixed), "slope": float(slope)}
        found.append(line)
    return found


def plot(points: Sequence[dict[str, Any]], path: Path) -> None:
    """CPU seconds and memory of every stage, a panel for each of what grows."""
    from matplotlib.figure import Figure

    series = ("tokens", "teachers", "k")
    figure = Figure(figsize=(13, 7), layout="constrained")
    panels = figure.subplots(2, len(series), squeeze=False)
    for column, against in enumerate(series):
        for stage in dict.fromkeys(point["stage"] for point in points if point["against"] == against):
            mine = [point for point in points if (point["stage"], point["against"]) == (stage, against)]
            mine.sort(key=lambda point: float(point["size"]))
            sizes = [point["size"] for point in mine]
            panels[0][column].plot(sizes, [point["cpu_seconds"] for point in mine], marker="o", label=stage)
            mebibytes = [max(1.0, point["bytes"] / BYTES_PER_MEBIBYTE) for point in mine]
            panels[1][column].plot(sizes, mebibytes, marker="o", label=stage)
        for row, unit in enumerate(("CPU seconds", "MiB")):
            panels[row][column].set(xscale="log", yscale="log", xlabel=against, ylabel=unit)
            panels[row][column].grid(alpha=0.3)
        panels[0][column].legend(fontsize=8)
    figure.savefig(path, dpi=110)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports/growth.json"), show_default=True)
@click.option("--pages", type=int, default=PAGES, show_default=True, help="Pages of text at x1.")
def main(out: Path, pages: int) -> None:
    """Measure, fit and plot."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    require("data/sources/wordnet", run="dvc repro sources@wordnet")
    require(MODEL, run="dvc repro sources@minilm-l6-mlm")
    points = Points()
    with tempfile.TemporaryDirectory() as folder:
        model_points(points, corpora(Path(folder), pages=pages))
    fits = fitted(points.points)
    kept = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    others = {name: kept[name] for name in ("text", "exponents", "reading") if name in kept}  # of other benchmarks
    result = {"machine": processor().name, "points": points.points, "fits": fits, **others}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot(points.points, out.with_suffix(".png"))
    for line in fits:
        time, memory = line["cpu_seconds"]["exponent"], line["bytes"]["exponent"]
        click.echo(f"{line['stage']:9s} {line['against']:9s} time ^{time:.2f}  memory ^{memory:.2f}")


if __name__ == "__main__":
    main()

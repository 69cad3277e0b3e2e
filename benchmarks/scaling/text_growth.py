"""How the text stages grow: CPU seconds and peak memory of each as a command, on generated texts of several sizes.

    python -m benchmarks.scaling.text_growth --source FOLDER --tokenizer FOLDER --work FOLDER --megabytes 20 200

Adds to reports/growth.json under `text` what was measured, and under `exponents` the slope of the logarithms from the
size nearest to a tenth of the largest to the largest: `time` of CPU seconds, which other work on the machine changes
less than seconds, and `memory` of the peak, libraries included. One run a size, one thread.

A stage that has a record in the folder `work` is not run again. The record of a stage that continued an interrupted run
holds the time of the rest alone: it is no point, and the report keeps the point of a whole run that it has.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

ROOT = Path(__file__).parents[2]
STAGES = {
    "ingest": ("ingest-big", "big", "--out", "data/text/big"),
    "corpus": ("corpus", "--text", "data/text", "--out", "data/documents"),
    "tokenize": ("tokenize", "--documents", "data/documents", "--out", "data/sequences"),
    "mask": ("mask", "--documents", "data/documents", "--sequences", "data/sequences", "--out", "data/masks"),
}
"""Stage to the name of its record and its arguments."""
OUT = {stage: arguments[-1] for stage, arguments in STAGES.items()}


def settings(texts: Path, tokenizer: Path) -> dict[str, Any]:
    """All that the text stages read of params.yaml."""
    return {
        "inputs": {"big": {"kind": "jsonl", "path": str(texts)}},
        "corpus": {"share": 1.0, "calibration": 0.01, "heldout": 0.01},
        "tokenize": {"tokenizer": str(tokenizer), "sequence_tokens": 128},
        "mask": {"rate": 0.15, "copies": 1, "seed": 0, "shard_rows": 65536},
        "runtime": {
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
            "batch_tokens": 2048,
            "checkpoint_seconds": 60.0,
        },
    }


def measured(folder: Path, megabytes: int) -> list[dict[str, Any]]:
    """What the stages recorded in a folder, but for those that continued an interrupted run."""
    points = []
    for stage, (record, *_) in STAGES.items():
        path = folder / "reports" / "runs" / f"{record}.json"
        said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"continued": True}
        if not said.get("continued"):
            points.append(
                {
                    "stage": stage,
                    "megabytes": megabytes,
                    "cpu_seconds": said["cpu_seconds"],
                    "peak_memory_bytes": said["peak_memory_bytes"],
                    "disk": sum(file.stat().st_size for file in (folder / OUT[stage]).rglob("*") if file.is_file()),
                    **{name: said[name] for name in ("documents", "tokens", "predictions") if name in said},
                }
            )
    return points


def measure(folder: Path, megabytes: int, *, source: Path, tokenizer: Path) -> None:
    """Generate the texts and run the stages that have no record yet."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    texts = folder / "texts"

    def run(module: str, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", module, *arguments], check=True, cwd=folder, env=environment)

    folder.mkdir(parents=True, exist_ok=True)
    if not texts.exists():
        options = ("--source", str(source), "--out", str(texts), "--megabytes", str(megabytes))
        run("benchmarks.scaling.big_text", *options)
    (folder / "params.yaml").write_text(yaml.safe_dump(settings(texts, tokenizer)), encoding="utf-8")
    for stage, (record, *arguments) in STAGES.items():
        if not (folder / "reports" / "runs" / f"{record}.json").is_file():
            run(f"stages.{stage}", *arguments)


def merged(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Points of both, by size and stage; of the same stage and size the new one."""
    found = {(point["megabytes"], list(STAGES).index(point["stage"])): dict(point) for point in (*old, *new)}
    return [found[key] for key in sorted(found)]


def slopes(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each stage CPU seconds and bytes on disk a token, from its smallest size to its largest."""
    tokens = {point["megabytes"]: point["tokens"] for point in points if "tokens" in point}
    size = max(tokens)
    found = {}
    for stage in dict.fromkeys(point["stage"] for point in points):
        mine = sorted((point for point in points if point["stage"] == stage), key=lambda point: point["megabytes"])
        grown = (mine[-1]["megabytes"] - mine[0]["megabytes"]) * tokens[size] / size
        found[stage] = {what: (mine[-1][what] - mine[0][what]) / grown for what in ("cpu_seconds", "disk")}
    return found


def exponents(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each stage the slopes over the largest decade that was measured."""
    found = []
    for stage in dict.fromkeys(point["stage"] for point in points):
        mine = sorted((point for point in points if point["stage"] == stage), key=lambda point: point["megabytes"])
        last = mine[-1]
        earlier = [point for point in mine[:-1] if point["megabytes"] * 10 <= last["megabytes"]]
        if earlier:
            ratio = math.log(last["megabytes"] / earlier[-1]["megabytes"])
            time, memory = (
                math.log(last[what] / earlier[-1][what]) / ratio for what in ("cpu_seconds", "peak_memory_bytes")
            )
            megabytes = [earlier[-1]["megabytes"], last["megabytes"]]
            found.append({"stage": stage, "time": round(time, 3), "memory": round(memory, 3), "megabytes": megabytes})
    return found


@click.command()
@click.option(
    "--source", type=click.Path(exists=True, path_type=Path), required=True, help="Texts to repeat and alter."
)
@click.option("--tokenizer", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Needs five times the largest size.")
@click.option("--megabytes", type=int, multiple=True, default=(20, 200), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports/growth.json"), show_default=True)
def main(source: Path, tokenizer: Path, work: Path, megabytes: tuple[int, ...], out: Path) -> None:
    """Measure, and add to the report of growth."""
    for size in megabytes:
        measure(work.absolute() / str(size), size, source=source.absolute(), tokenizer=tokenizer.absolute())
    sizes = sorted(int(path.name) for path in work.iterdir() if path.name.isdigit())
    report = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    points = merged(report.get("text", []), [point for size in sizes for point in measured(work / str(size), size)])
    out.parent.mkdir(parents=True, exist_ok=True)
    report |= {"text": points, "exponents": exponents(points)}
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for line in report["exponents"]:
        click.echo(f"{line['stage']:9s} time ^{line['time']:.2f}  memory ^{line['memory']:.2f}")


if __name__ == "__main__":
    main()

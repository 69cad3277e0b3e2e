"""What a large corpus costs, computed from what was measured; writes docs/scaling.md.

    python -m benchmarks.scaling.page --bench reports/bench.json --growth reports/growth.json --out docs/scaling.md

Every constant says whether it was measured, and where, or assumed, and why. The section "Clusters" of the page is
written by hand and kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from benchmarks.scaling.text_growth import slopes
from pipeline.train.data import WINDOW_PREDICTIONS

TEACHERS = 3
CORPORA = (1e9, 100e9)
"""Tokens."""

HEADING = "## Clusters"
SECONDS_PER_HOUR = 3600
PRICES_STATED = "2026-11"

TEXT_STAGES = ("ingest", "corpus", "tokenize", "mask")
"""One thread each; in the order of the pipeline."""

TEACHER_FLOPS = 2 * 85.6e6 + 4 * 128 * 768 * 12 + 0.166 * 2 * 768 * 31_000
"""A token through 12 layers of width 768 (2 a parameter, and attention over 128 tokens), the head at every sixth."""

STUDENT_FLOPS = 3 * (2 * 10.7e6 + 4 * 128 * 384 * 6 + 0.166 * 2 * 384 * 31_000)
"""The same of 6 layers of width 384, forward and backward."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """A number, and how far to trust it."""

    value: float
    unit: str
    kind: Literal["measured", "assumed"]
    source: str


def measured(value: float, unit: str, source: str) -> Constant:
    """A constant from a report."""
    return Constant(value=value, unit=unit, kind="measured", source=source)


def assumed(value: float, unit: str, why: str) -> Constant:
    """A constant that is a guess or an input."""
    return Constant(value=value, unit=unit, kind="assumed", source=why)


ASSUMED = {
    "gpu_flops": assumed(990e12, "FLOP/s", "H100 SXM, dense bfloat16, the maker's data sheet"),
    "teach_share": assumed(0.30, "of that", "reached by a 110 M encoder on windows of 128 tokens; a guess to replace"),
    "train_share": assumed(0.10, "of that", "reached by a 22.7 M student; a guess to replace"),
    "tail_bytes": assumed(5.0, "bytes a prediction", "each further teacher's coordinates in a fused store"),
    "gpu_hour": assumed(2.50, "USD", f"one H100, an input, {PRICES_STATED}"),
    "core_hour": assumed(0.04, "USD", f"one CPU core with 8 GB, an input, {PRICES_STATED}"),
    "disk_month": assumed(0.02, "USD a GB", f"object storage, an input, {PRICES_STATED}"),
}


def constants(
    bench: Sequence[Mapping[str, Any]],
    growth: Mapping[str, Any],
    summary: Mapping[str, Any],
    store: Mapping[str, Any],
) -> dict[str, Constant]:
    """Everything the estimate needs.

    Growth gives seconds and bytes a token, the row online-3x1 of the benchmark this CPU's teacher and student, the
    summary of the default run the sizes of its stores, the benchmark of the store what writing takes in large shards.
    Refuses a benchmark without that row.
    """
    found = dict(ASSUMED)
    for stage, slope in slopes(growth["text"]).items():
        source = f"reports/growth.json, text, {stage}"
        found[f"{stage}_seconds"] = measured(slope["cpu_seconds"], "CPU seconds a token", source)
        found[f"{stage}_disk"] = measured(slope["disk"], "bytes on disk a token", source)
    row = next((item for item in bench if item["name"] == "online-3x1" and item.get("details")), None)
    if row is None:
        raise click.ClickException("bench.json: no row online-3x1. Run: python -m benchmarks.speed --only online-3x1")
    details = row["details"]
    where = f"reports/bench.json, online-3x1, {row['device']}"
    rows_per_token = details["rows"] / details["tokens"]
    found["predictions"] = measured(rows_per_token, "predictions a token", where)
    for name, what in (("teach", "teach"), ("train", "student_step")):
        found[f"{name}_cpu"] = measured(details["seconds"][what] / details["tokens"], "seconds a token", where)
    found["fuse_row"] = measured(details["fuse_row_seconds"][str(TEACHERS)], "seconds a prediction, one core", where)
    ours = next(item for item in store["formats"] if (item["form"], item["format"]) == ("nucleus", "ours"))
    written = "reports/store.json, shards of 65,536"
    found["write_row"] = measured(1 / ours["write_rows_per_second"], "seconds a prediction, one core", written)
    stores = summary["teachers"], summary["fusions"]
    found["logits_bytes"] = measured(
        max(store_bytes(store) for store in stores[0].values()), "bytes a prediction", "reports/summary.json, teachers"
    )
    found["targets_bytes"] = measured(
        store_bytes(stores[1]["confident"]), "bytes a prediction", "reports/summary.json, two teachers fused"
    )
    return found


def store_bytes(evaluation: Mapping[str, Any]) -> float:
    """Bytes a prediction in the report of a teacher or a fusion."""
    value = evaluation["bytes_per_position"]
    return float(value["value"] if isinstance(value, Mapping) else value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What a stage costs over a corpus."""

    name: str
    hours: float
    on: Literal["core", "GPU"]
    disk_bytes: float

    def price(self, known: Mapping[str, Constant]) -> float:
        """USD for the time alone."""
        return self.hours * known["gpu_hour" if self.on == "GPU" else "core_hour"].value


def estimate(tokens: float, known: Mapping[str, Constant], *, teachers: int = TEACHERS) -> list[Stage]:
    """Every stage over a corpus of `tokens` tokens, read once, one mask copy, one student."""
    value = {name: constant.value for name, constant in known.items()}
    predictions = tokens * value["predictions"]
    stages = [
        Stage(
            name=name,
            hours=tokens * value[f"{name}_seconds"] / SECONDS_PER_HOUR,
            on="core",
            disk_bytes=tokens * value[f"{name}_disk"],
        )
        for name in TEXT_STAGES
    ]
    gpu = value["gpu_flops"]
    teach = tokens * TEACHER_FLOPS / (gpu * value["teach_share"])
    write = predictions * value["write_row"]  # in one process with the GPU: the slower of the two counts
    stages.append(
        Stage(
            name=f"teach, {teachers} times",
            hours=teachers * max(teach, write) / SECONDS_PER_HOUR,
            on="GPU",
            disk_bytes=teachers * predictions * value["logits_bytes"],
        )
    )
    fused = value["targets_bytes"] + (teachers - 2) * value["tail_bytes"]
    fuse_hours = predictions * value["fuse_row"] / SECONDS_PER_HOUR
    stages.append(Stage(name="fuse", hours=fuse_hours, on="core", disk_bytes=predictions * fused))
    train = tokens * STUDENT_FLOPS / (gpu * value["train_share"])
    stages.append(Stage(name="train, one student", hours=train / SECONDS_PER_HOUR, on="GPU", disk_bytes=91e6))
    return stages


def cost_table(tokens: float, known: Mapping[str, Constant]) -> str:
    """Markdown of one corpus."""
    lines = ["| stage | hours | on one | USD | on disk, GB |", "| --- | --- | --- | --- | --- |"]
    stages = estimate(tokens, known)
    lines += [
        f"| {stage.name} | {number(stage.hours)} | {stage.on} | {number(stage.price(known))} | "
        f"{number(stage.disk_bytes / 1e9)} |"
        for stage in stages
    ]
    disk = sum(stage.disk_bytes for stage in stages) / 1e9
    month = disk * known["disk_month"].value
    hours = {on: sum(stage.hours for stage in stages if stage.on == on) for on in ("core", "GPU")}
    lines.append(
        f"| **together** | {number(hours['GPU'])} GPU, {number(hours['core'])} core | | "
        f"**{number(sum(stage.price(known) for stage in stages))}**, and {number(month)} a month of storage | "
        f"{number(disk)} |"
    )
    return "\n".join(lines)


def reading_table(growth: Mapping[str, Any]) -> str:
    """Seconds and memory before and during the first windows, on simulated stores."""
    lines = ["| | tokens of the store | seconds | peak memory, MB |", "| --- | --- | --- | --- |"]
    for line in growth["reading"]:
        tokens, memory = billions(line["tokens"]), line["peak_memory_bytes"] / 1e6
        lines.append(f"| {line['what']} | {tokens} | {line['seconds']:.1f} | {memory:,.0f} |")
    return "\n".join(lines)


def constants_table(known: Mapping[str, Constant]) -> str:
    """Every constant with its source."""
    lines = ["| constant | value | unit | | from |", "| --- | --- | --- | --- | --- |"]
    for name, constant in sorted(known.items(), key=lambda item: item[1].kind, reverse=True):
        mark = "measured" if constant.kind == "measured" else "**assumed**"
        lines.append(f"| {name} | {constant.value:.3g} | {constant.unit} | {mark} | {constant.source} |")
    return "\n".join(lines)


def number(value: float) -> str:
    """Two digits that count, with thousands separated."""
    return f"{float(f'{value:.2g}'):,.10g}"


def billions(tokens: float) -> str:
    """A number of tokens in words."""
    return f"{number(tokens / 1e9)} billion" if tokens >= 1e9 else f"{number(tokens / 1e6)} million"


def page(known: Mapping[str, Constant], growth: Mapping[str, Any], *, clusters: str, template: str) -> str:
    """docs/scaling.md from the template beside this file, whose names in braces are filled in."""
    slowest = max(estimate(CORPORA[0], known), key=lambda stage: stage.hours)
    return template.format(
        machine=growth["machine"],
        small=cost_table(CORPORA[0], known),
        large=cost_table(CORPORA[1], known),
        reading=reading_table(growth),
        window=f"{WINDOW_PREDICTIONS:,}",
        slowest=slowest.name,
        growth=growth_table(growth),
        note=growth.get("note", ""),
        text=text_table(growth),
        tenfold=tenfold_table(growth),
        constants=constants_table(known),
        clusters=clusters,
        cpu_teach=number(TEACHERS * CORPORA[0] * known["teach_cpu"].value / SECONDS_PER_HOUR),
        cpu_train=number(CORPORA[0] * known["train_cpu"].value / SECONDS_PER_HOUR),
        teachers=TEACHERS,
        teacher_flops=number(TEACHER_FLOPS / 1e9),
        student_flops=number(STUDENT_FLOPS / 1e9),
    )


def growth_table(growth: Mapping[str, Any]) -> str:
    """Exponents of time and memory by stage."""
    series = ("tokens", "teachers", "k")
    fits = {(line["stage"], line["against"]): line for line in growth["fits"]}
    lines = [
        "| stage | " + " | ".join(f"time, {name} | memory, {name}" for name in series) + " |",
        "| --- |" + " --- |" * 2 * len(series),
    ]
    for stage in dict.fromkeys(line["stage"] for line in growth["fits"]):
        cells = []
        for against in series:
            line = fits.get((stage, against))
            cells += (
                ["", ""] if line is None else [f"{line[what]['exponent']:.2f}" for what in ("cpu_seconds", "bytes")]
            )
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def text_table(growth: Mapping[str, Any]) -> str:
    """What the text stages took at each size, and their exponents over the largest decade."""
    found = {line["stage"]: line for line in growth["exponents"]}
    lines = ["| stage | text, MB | CPU seconds | peak memory, MB | exponent of time | of memory |"]
    lines.append("| --- |" + " --- |" * 5)
    for point in sorted(growth["text"], key=lambda point: (TEXT_STAGES.index(point["stage"]), point["megabytes"])):
        line = found.get(point["stage"], {})
        largest = line and point["megabytes"] == line["megabytes"][-1]
        slope = f"{line['time']:.2f} | {line['memory']:.2f}" if largest else " | "
        memory = point["peak_memory_bytes"] / 1e6
        lines.append(
            f"| {point['stage']} | {point['megabytes']:,} | {point['cpu_seconds']:.0f} | {memory:.0f} | {slope} |"
        )
    return "\n".join(lines)


def tenfold_table(growth: Mapping[str, Any]) -> str:
    """Peak memory at the largest text and at that nearest to a tenth of it; of training at its smallest and largest."""
    lines = ["| stage | from | to | peak memory, GB |", "| --- | --- | --- | --- |"]
    peak = {(point["stage"], point["megabytes"]): point["peak_memory_bytes"] for point in growth["text"]}
    for found in growth["exponents"]:
        sizes = found["megabytes"]
        memory = " to ".join(f"{peak[found['stage'], size] / 1e9:.2f}" for size in sizes)
        lines.append(f"| {found['stage']} | {sizes[0]:,} MB | {sizes[1]:,} MB | {memory} |")
    for what in dict.fromkeys(line["what"] for line in growth["reading"]):
        mine = sorted((line for line in growth["reading"] if line["what"] == what), key=lambda line: line["tokens"])
        tokens = " | ".join(f"{billions(line['tokens'])} tokens" for line in (mine[0], mine[-1]))
        memory = " to ".join(f"{line['peak_memory_bytes'] / 1e9:.2f}" for line in (mine[0], mine[-1]))
        lines.append(f"| {what} | {tokens} | {memory} |")
    return "\n".join(lines)


def kept_section(path: Path) -> str:
    """What stands under "Clusters" in the page there is, up to the next heading."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    _, found, rest = text.partition(f"{HEADING}\n")
    return rest.partition("\n## ")[0].strip() if found else "To be written."


@click.command()
@click.option("--bench", type=click.Path(exists=True, path_type=Path), default=Path("reports/bench.json"))
@click.option("--growth", type=click.Path(exists=True, path_type=Path), default=Path("reports/growth.json"))
@click.option("--summary", type=click.Path(exists=True, path_type=Path), default=Path("reports/summary.json"))
@click.option("--store", type=click.Path(exists=True, path_type=Path), default=Path("reports/store.json"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/scaling.md"), show_default=True)
def main(bench: Path, growth: Path, summary: Path, store: Path, out: Path) -> None:
    """Write the page."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in (bench, growth, summary, store)]
    template = Path(__file__).with_name("scaling.md.in").read_text(encoding="utf-8")
    text = page(constants(*reports), reports[1], clusters=kept_section(out), template=template)
    out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

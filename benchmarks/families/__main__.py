"""Write what became of every family in every role.

    python -m benchmarks.families --out reports/families.json

Four minutes of one core. The file keeps its other keys.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import click

from benchmarks.families.configs import FAMILIES
from benchmarks.families.matrix import World, make_targets, run_family
from pipeline.evaluate.results import write_json


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports/families.json"), show_default=True)
@click.option("--family", "names", multiple=True, type=click.Choice(sorted(FAMILIES)), help="These only; else all.")
def main(out: Path, names: tuple[str, ...]) -> None:
    """Take families through the pipeline and write the outcomes to OUT."""
    warnings.simplefilter("ignore")
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        world = World.make(root / "world")
        targets = make_targets(world, root / "targets")
        for name in names or FAMILIES:
            made = run_family(world, name, root / "run" / name, roles=("teacher", "start", "lexical"), targets=targets)
            for outcome in made:
                print(f"{outcome.family:16} {outcome.role:8} {outcome.outcome:8} {outcome.why[:100]}", flush=True)
            # A message names the temporary folder, which is another one every time.
            outcomes += [asdict(outcome) | {"why": outcome.why.replace(f"{root}/", "")} for outcome in made]
    known = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    write_json(out, known | {"families": outcomes})


if __name__ == "__main__":
    main()

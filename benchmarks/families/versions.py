"""Students of every family in other versions of transformers.

    python -m benchmarks.families.versions --python OTHER/bin/python --out reports/families.json

Each OTHER is a virtual environment with torch and transformers. Students are trained from a start of each family, with
the reference vocabulary, and saved as `train` saves them; a minute of one core.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.families import loads
from benchmarks.families.configs import FAMILIES
from benchmarks.families.matrix import TOLERANCE, World, as_start, make_targets, publish
from benchmarks.families.texts import TEXTS
from pipeline.evaluate.results import write_json
from storage.errors import DistillError

PATH = click.Path(path_type=Path)
MASKED = "the dog [MASK] under the table."


def student(world: World, name: str, out: Path, *, targets: Path) -> Path:
    """A student from a start of the family, with what the installed transformers says of it beside it."""
    from transformers import AutoModelForMaskedLM

    from pipeline.text.tokenizer import load_tokenizer

    start = publish(out / "published", name, steps=0)
    with contextlib.chdir(out):
        as_start(world, start, out, targets=targets)
    folder = out / "models" / "one"
    tokenizer = load_tokenizer(world.tokenizer)
    tokenizer.backend.encode_special_tokens = False  # the mask is meant, as a user of the pipeline means it
    texts = [*TEXTS[:3], MASKED]
    rows = [encoding.ids for encoding in tokenizer.backend.encode_batch(texts)]
    width = max(map(len, rows))
    ids = [row + [tokenizer.special["pad"]] * (width - len(row)) for row in rows]
    attention = [[int(i < len(row)) for i in range(width)] for row in rows]
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(attention)).logits
        alone_V = model(input_ids=torch.tensor(rows[-1:])).logits[0, rows[-1].index(tokenizer.special["mask"])]
    expected = {
        "texts": texts, "ids": ids, "attention": attention, "logits": logits.tolist(), "special": tokenizer.special,
        "top": int(alone_V.argmax()),
    }  # fmt: skip
    (folder / loads.EXPECTED).write_text(json.dumps(expected), encoding="utf-8")
    return folder


def versions(names: tuple[str, ...], pythons: tuple[str, ...], root: Path) -> list[dict[str, Any]]:
    """A row a family and version: `same`, `differs`, `not loaded`, or `refused` for families with no student."""
    world = World.make(root / "world")
    targets = make_targets(world, root / "targets")
    folders, made = {}, []
    for name in names or FAMILIES:
        try:
            folders[str(student(world, name, root / name, targets=targets))] = name
        except DistillError:
            made.append({"family": name, "outcome": "refused"})
    for python in (sys.executable, *pythons):
        command, quiet = [python, "-P", loads.__file__, *folders], {"HF_HUB_OFFLINE": "1"}
        lines = subprocess.run(command, check=True, capture_output=True, text=True, env=quiet).stdout.splitlines()
        printed = map(json.loads, (line for line in lines if line.startswith("{")))
        made += [{"family": folders[found.pop("folder")], "outcome": outcome(found), **found} for found in printed]
    return made


def outcome(found: dict[str, Any]) -> str:
    """What a line of `loads` amounts to."""
    if "difference" not in found:
        return "not loaded"
    same = found["difference"] <= TOLERANCE and all(found.get(part) for part in ("tokens", "special", "fills"))
    return "same" if same else "differs"


@click.command()
@click.option("--out", type=PATH, default=Path("reports/families.json"), show_default=True)
@click.option("--python", "pythons", multiple=True, help="Python of another environment.")
@click.option("--family", "names", multiple=True, type=click.Choice(sorted(FAMILIES)), help="These only; else all.")
def main(out: Path, pythons: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Load students in other versions and write `versions` to OUT, which keeps other keys."""
    torch.set_num_threads(1)
    known = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    with tempfile.TemporaryDirectory() as scratch:
        known["versions"] = versions(names, pythons, Path(scratch))
    write_json(out, known)
    for row in known["versions"]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()

"""A params.yaml for given teachers, a student and texts, and a folder to run it in.

What can be chosen from the models, the texts and the machine is chosen, and the file says by what. The folder gets a
copy of the code: dvc.yaml runs again what an edit of the code concerns, so a project has its own.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.project.consistency import read_consistent
from pipeline.project.survey import Surveyed, survey
from pipeline.sources.hub import latest_commit
from pipeline.sources.params import COMMIT_PATTERN, REPO_PATTERN
from storage.atomic import write_bytes
from storage.errors import DataError, ParamsError

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = Path(__file__).with_name("assets") / "params.yaml.j2"
PARAMS = "params.yaml"

CODE = ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc", "pipeline", "stages", "storage", "examples")
"""What a project folder needs of a checkout."""

LEAST_DOCUMENTS = 20
"""With fewer, one of the three splits would likely be empty."""
LEAST_TOKENS = 3000
"""With fewer, calibration would have too few masked positions."""

TOKENS_A_CORE = 75_000
"""Text that a core reads in a quarter of an hour with two teachers of 110 million parameters, training included: the
default run has 140,000 tokens and takes so long on 2 cores (docs/results/speed.md)."""
TOKENS_A_GPU = 10_000_000

SEQUENCE_TOKENS = 128
EPOCHS, COPIES = 0.6, 2
"""Of the default run: tokens of training for each token of text and copy of masks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """One entry of `sources`."""

    name: str
    source: dict[str, str]
    config: dict[str, Any]
    """Of config.json; empty for a model that is not on this machine."""

    @property
    def layers(self) -> int | None:
        """Transformer layers, where known."""
        found = self.config.get("num_hidden_layers")
        return found if isinstance(found, int) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What sizes are chosen by."""

    cores: int
    gpu: bool

    @property
    def tokens(self) -> int:
        """Of text, for a first run."""
        return TOKENS_A_GPU if self.gpu else TOKENS_A_CORE * self.cores


def this_machine() -> Machine:
    """Cores and GPU of this machine."""
    import torch

    return Machine(cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
                   gpu=torch.cuda.is_available())  # fmt: skip


def model_of(given: str, role: str) -> Model:
    """A model that is given as a folder or hub name, `name=` before it or not; `owner/name@commit` pins a commit.

    Raises ParamsError when it is neither, and SourceError when the commit of a hub name cannot be asked for.
    """
    name, sign, where = given.partition("=")
    if not sign:
        name, where = "", given
    folder = Path(where).expanduser()
    if folder.is_dir():
        config = folder / "config.json"
        if not config.is_file():
            raise ParamsError(f"{role} {given}: expected a Hugging Face model folder, found no config.json in {folder}")
        read = json.loads(config.read_text(encoding="utf-8"))
        return Model(name=_name(name or folder.resolve().name), source={"local": str(folder.resolve())}, config=read)
    repo, _, commit = where.partition("@")
    if not re.fullmatch(REPO_PATTERN, repo) or where.startswith((".", "/", "~")) or where.count("/") > 1:
        raise ParamsError(
            f"{role} {given}: expected a folder that is there or a name on the hub, as [NAME=]FOLDER, "
            "[NAME=]OWNER/MODEL or [NAME=]OWNER/MODEL@COMMIT"
        )
    if commit and not re.fullmatch(COMMIT_PATTERN, commit):
        raise ParamsError(f"{role} {given}: expected a commit of 40 hexadecimal digits after @, got '{commit}'")
    revision = commit or latest_commit(repo)
    return Model(name=_name(name or repo.rpartition("/")[2]), source={"hub": repo, "revision": revision}, config={})


def _name(given: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", given).strip("-") or "model"


def settings_text(teachers: Sequence[Model], student: Model, texts: Sequence[Surveyed], machine: Machine) -> str:
    """The text of params.yaml.

    Raises ParamsError when two teachers have one name, and DataError when there are too few documents.
    """
    import jinja2

    names = [teacher.name for teacher in teachers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ParamsError(f"--teachers: expected a name each, got '{twice[0]}' twice. Give names, as NAME={twice[0]}")
    documents, tokens = sum(text.documents for text in texts), sum(text.tokens for text in texts)
    if documents < LEAST_DOCUMENTS or tokens < LEAST_TOKENS:
        raise DataError(
            f"{texts[0].params.path}: {documents} documents with about {tokens} tokens, expected at least "
            f"{LEAST_DOCUMENTS} with {LEAST_TOKENS}. A document is a line of JSON Lines, a row of a table or a text "
            "file, and lies in one split as a whole. Give more text"
        )
    share = _rounded(min(1.0, machine.tokens / tokens))
    kept, kept_tokens = documents * share, tokens * share
    same = next((teacher for teacher in teachers if teacher.source == student.source), None)
    own_name = same.name if same else student.name
    if same is None and student.name in names:
        own_name = f"{student.name}-student"
    longest = [each.config.get("max_position_embeddings") for each in (*teachers, student)]
    heldout = _rounded(min(0.25, max(0.01, 300 / kept)))
    calibration = _rounded(min(0.25, max(0.002, 75 / kept, 1500 / kept_tokens)))
    step_tokens = 8192 if machine.gpu else 256
    train_tokens = kept_tokens * (1 - heldout - calibration)
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    environment.filters["quoted"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        teachers=teachers,
        student=own_name,
        sources={**{each.name: each.source for each in teachers}, own_name: student.source},
        layers=list(range(0, student.layers, 2)) if same and student.layers and student.layers > 1 else None,
        every=student.layers,
        texts=dict(_named_texts(texts)),
        machine=machine,
        share=share,
        heldout=heldout,
        calibration=calibration,
        documents=documents,
        kept=round(kept),
        tokens=round(tokens * share),
        all_exact=all(text.exact for text in texts),
        sequence_tokens=min([SEQUENCE_TOKENS, *(each - 4 for each in longest if isinstance(each, int))]),
        copies=COPIES,
        step_tokens=step_tokens,
        steps=max(20, math.ceil(EPOCHS * COPIES * train_tokens / step_tokens)),
        batch_tokens=16384 if machine.gpu else 2048,
        shard_rows=65536 if tokens * share > 5_000_000 else 2048,
    )


def _rounded(value: float) -> float:
    """Two digits that count."""
    return float(f"{value:.2g}")


def _named_texts(texts: Sequence[Surveyed]) -> list[tuple[str, Surveyed]]:
    """Texts by names that differ, from those of their files."""
    named: dict[str, Surveyed] = {}
    for text in texts:
        stem = _name(Path(text.params.path).name.partition(".")[0])
        name = next(each for each in (stem, *(f"{stem}-{number}" for number in range(2, 10_000))) if each not in named)
        named[name] = text
    return list(named.items())


def surveyed_in(folder: Path, paths: Sequence[Path]) -> list[Surveyed]:
    """What the texts are; paths below `folder` relative to it, others absolute. Raises as `survey`."""
    found = []
    for path in paths:
        whole = path.expanduser().resolve()
        inside = whole.is_relative_to(folder.resolve())
        seen = survey(whole)
        shown = whole.relative_to(folder.resolve()).as_posix() if inside else str(whole)
        found.append(
            Surveyed(params=seen.params.model_copy(update={"path": shown}), documents=seen.documents,
                     tokens=seen.tokens, exact=seen.exact, columns=seen.columns)
        )  # fmt: skip
    return found


def is_project(folder: Path) -> bool:
    """Whether a folder has the pipeline in it: a checkout, or a folder that was made here before."""
    return (folder / "dvc.yaml").is_file() and (folder / "stages" / "command.py").is_file()


def write_project(folder: Path, text: str, *, force: bool = False) -> bool:
    """Write params.yaml to `folder`, and the code where it is not there; True when that was written.

    What was written is checked as `stages.check` does. Raises ParamsError when there is a params.yaml and `force` is
    not set, or when files of the folder have names that the code needs.
    """
    target = folder / PARAMS
    if target.exists() and not force:
        raise ParamsError(f"{target}: is there already. Give another FOLDER, or --force to write over it")
    new = not is_project(folder)
    if new:
        if not is_project(ROOT):
            raise ParamsError(f"{ROOT}: is no checkout of the project. Clone it and install it from there")
        if there := [name for name in (*CODE, "assets") if (folder / name).exists()]:
            raise ParamsError(f"{folder}: has {', '.join(there)}, which a project needs. Give an empty FOLDER")
        if shutil.which("git") is None:
            raise ParamsError(f"{folder}: DVC needs git, which is not installed")
        _copy_code(folder)
    write_bytes(target, text.encode())
    with contextlib.chdir(folder):
        read_consistent(Path(PARAMS))
    return new


def _copy_code(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ignore = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local")
    for name in CODE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        else:
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "assets").mkdir()
    (folder / "assets" / "README.md").write_text("Adapters that `sources` names lie here.\n", encoding="utf-8")
    if not (folder / ".git").exists():
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)

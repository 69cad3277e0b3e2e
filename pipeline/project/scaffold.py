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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.models.files import CONFIG_FILE
from pipeline.project.consistency import read_consistent
from pipeline.project.survey import Surveyed, survey
from pipeline.sources.hub import latest_commit
from pipeline.sources.params import COMMIT_PATTERN, REPO_PATTERN
from pipeline.text.documents.readers import LARGE_FILE_CHARACTERS
from storage.atomic import write_bytes
from storage.errors import DataError, ParamsError, SourceError

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
"""About as much text a core as the default run has: `MEASURED`."""
MEASURED = "140,000 tokens took 22 to 43 minutes on 2 cores with two teachers of 110 million parameters"
"""The default run on processors with AVX-512 and without, downloads included (docs/results/speed.md)."""
TOKENS_A_GPU = 10_000_000

SEQUENCE_TOKENS = 128
EPOCHS = 1.2
"""Tokens of training for each token of the train text, which has one copy of masks; the default run has 1.3."""

MADE = ("data", "models")
"""Folders of a project in which its stages write."""
UNQUOTED = re.compile(r"""[^\s"'`$&|;<>()*?\[\]{}\\!#]+""")
"""Paths that mean themselves in the commands of dvc.yaml, which a shell runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A teacher, or what students start from."""

    name: str
    path: str
    """As params.yaml names it: a folder on this machine, or data/sources/<name>."""
    source: dict[str, str] | None
    """Its entry of `sources`, for a model on the hub; None for a folder, which DVC tracks itself."""
    config: dict[str, Any]
    """Of config.json; empty for a model on the hub."""
    folder: Path | None
    """Where it is; None for a model on the hub."""

    @property
    def layers(self) -> int | None:
        """Transformer layers, where known."""
        found = self.config.get("num_hidden_layers")
        return found if isinstance(found, int) else None

    def is_model(self, other: Model) -> bool:
        """Whether both are one folder, or one commit on the hub."""
        return (self.folder, self.source) == (other.folder, other.source)


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


def model_of(given: str, role: str, project: Path) -> Model:
    """A model that is given as a folder or hub name, `name=` before it or not; `owner/name@commit` pins a commit.

    Raises ParamsError when it is neither or a folder that stages of `project` cannot name, and SourceError when the
    folder holds no model or the commit of a hub name cannot be asked for.
    """
    name, sign, where = given.partition("=")
    if not sign:
        name, where = "", given
    folder = Path(where).expanduser()
    if folder.is_dir():
        return _local_model(folder.resolve(), name, f"{role} {given}", project)
    repo, _, commit = where.partition("@")
    if not re.fullmatch(REPO_PATTERN, repo) or where.startswith((".", "/", "~")) or where.count("/") > 1:
        raise ParamsError(
            f"{role} {given}: expected a folder that is there or a name on the hub, as [NAME=]FOLDER, "
            "[NAME=]OWNER/MODEL or [NAME=]OWNER/MODEL@COMMIT"
        )
    if commit and not re.fullmatch(COMMIT_PATTERN, commit):
        raise ParamsError(f"{role} {given}: expected a commit of 40 hexadecimal digits after @, got '{commit}'")
    try:
        revision = commit or latest_commit(repo)
    except SourceError as error:
        raise SourceError(
            f"{role} {given}: no such folder is here, and the hub could not be asked. For a folder, check the path. "
            f"For a model on the hub: {error}"
        ) from error
    name = _name(name or repo.rpartition("/")[2])
    return Model(name=name, path=_fetched(name), source={"hub": repo, "revision": revision}, config={}, folder=None)


def _local_model(folder: Path, name: str, given: str, project: Path) -> Model:
    from pipeline.sources.adapters import require_model

    require_model(folder)
    path = _path_in(project, folder)
    if not UNQUOTED.fullmatch(path):
        raise ParamsError(
            f"{given}: stages name the folder in commands, where '{path}' would be several words or a pattern. "
            "Rename or move it, so that its path has no spaces, quotation marks or brackets"
        )
    if Path(path).parts[:1] in [(made,) for made in MADE]:
        raise ParamsError(
            f"{given}: lies in '{Path(path).parts[0]}' of the project, where stages write and remove models. Move it"
        )
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return Model(name=_name(name or folder.name), path=path, source=None, config=config, folder=folder)


def _fetched(name: str) -> str:
    return f"data/sources/{name}"


def _path_in(project: Path, whole: Path) -> str:
    """A path without links as params.yaml names it: below the project's folder relative to that, else absolute."""
    root = project.resolve()
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else str(whole)


def usable_layers(teachers: Sequence[Model], student: Model) -> list[int] | None:
    """Load the models that are folders, as the stages `teach` and `train` do, and refuse what those would refuse.

    Returns every second layer where `student` is a teacher whose layers can be chosen from; None where all are kept.
    Raises SourceError, TeacherRefused or VocabularyError when a model cannot be used. One model is in memory at a time.
    """
    for folder in dict.fromkeys(teacher.folder for teacher in teachers):
        if folder is not None:
            _require_teacher(folder)
    if student.folder is None:
        return None
    same = any(teacher.is_model(student) for teacher in teachers)
    if same and student.layers is not None and student.layers > 1:
        with contextlib.suppress(ParamsError):  # of a family whose layers cannot be told apart, such as ALBERT
            return _require_start(student.folder, list(range(0, student.layers, 2)))
    return _require_start(student.folder, None)


def _require_teacher(folder: Path) -> None:
    import torch

    from pipeline.models.masked_lm import masked_lm
    from pipeline.text.tokenizer import load_tokenizer, shortened

    with masked_lm(folder, device=torch.device("cpu"), dtype=torch.float32) as lm:
        shortened(load_tokenizer(folder), lm.vocabulary)


def _require_start(folder: Path, layers: list[int] | None) -> list[int] | None:
    from pipeline.text.tokenizer import load_tokenizer
    from pipeline.train.initialize import start_student

    start_student(folder, tokenizer=load_tokenizer(folder), layers=layers, config=None, seed=0)
    return layers


def _name(given: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", given).strip("-") or "model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """How much text there is, and the share of it for a first run."""

    documents: int
    tokens: int
    share: float
    exact: bool
    """Whether the documents were counted, not estimated."""

    @property
    def kept(self) -> float:
        """Documents of the share."""
        return self.documents * self.share

    @property
    def kept_tokens(self) -> float:
        """Tokens of the share."""
        return self.tokens * self.share


def amount_of(texts: Sequence[Surveyed], machine: Machine) -> Amount:
    """What this machine reads of the texts in a first run; raises DataError when there are too few documents."""
    documents, tokens = sum(text.documents for text in texts), sum(text.tokens for text in texts)
    if documents < LEAST_DOCUMENTS or tokens < LEAST_TOKENS:
        advice = "Give more text"
        if documents < LEAST_DOCUMENTS and any(text.params.kind == "text" for text in texts):
            advice = (
                "Where each line of a text file is a document: jq -cR '{text: .}' FILE > NEW.jsonl. Else part it into "
                f"files of a folder. In a file of more than {LARGE_FILE_CHARACTERS:,} characters, what stands between "
                "blank lines is a document"
            )
        raise DataError(
            f"{texts[0].params.path}: {documents} document{'' if documents == 1 else 's'} with about {tokens} tokens, "
            f"expected at least {LEAST_DOCUMENTS} with {LEAST_TOKENS}. A document is a line of JSON Lines, a row of a "
            f"table or a text file, and lies in one split as a whole. {advice}"
        )
    return Amount(
        documents=documents,
        tokens=tokens,
        share=_rounded(min(1.0, machine.tokens / tokens)),
        exact=all(text.exact for text in texts),
    )


def amount_used(amount: Amount, machine: Machine) -> str:
    """For the terminal: how much of the text a first run uses, and why."""
    about = "" if amount.exact and amount.share == 1 else "about "
    documents, tokens = f"{amount.kept:,.0f}", f"{float(f'{amount.kept_tokens:.3g}'):,.0f}"
    if amount.share == 1:
        return f"Uses all of the text: {about}{documents} documents, about {tokens} tokens"
    why = "So many for a GPU are a guess that nothing measured" if machine.gpu else MEASURED
    return (
        f"Uses {100 * amount.share:g} % of the text: {about}{documents} of {amount.documents:,} documents, "
        f"{tokens} tokens. {why}. Raise corpus.share in params.yaml for more"
    )


def settings_text(
    teachers: Sequence[Model],
    student: Model,
    texts: Sequence[Surveyed],
    machine: Machine,
    *,
    layers: list[int] | None = None,
) -> str:
    """The text of params.yaml; `layers` are those of the start that students keep, None for all.

    Raises ParamsError when two teachers have one name, and DataError when there are too few documents.
    """
    import jinja2

    names = [teacher.name for teacher in teachers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ParamsError(f"--teachers: expected a name each, got '{twice[0]}' twice. Give names, as NAME={twice[0]}")
    amount = amount_of(texts, machine)
    same = next((teacher for teacher in teachers if teacher.is_model(student)), None)
    start = same or student
    if same is None and student.source is not None and student.name in names:
        own_name = f"{student.name}-student"
        start = replace(student, name=own_name, path=_fetched(own_name))
    longest = [each.config.get("max_position_embeddings") for each in (*teachers, student)]
    heldout = _rounded(min(0.25, max(0.01, 300 / amount.kept)))
    calibration = _rounded(min(0.25, max(0.002, 75 / amount.kept, 1500 / amount.kept_tokens)))
    step_tokens = 8192 if machine.gpu else 256
    train_tokens = amount.kept_tokens * (1 - heldout - calibration)
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
        start=start.path,
        sources={each.name: each.source for each in (*teachers, start) if each.source is not None},
        layers=layers,
        every=student.layers,
        texts=dict(_named_texts(texts)),
        machine=machine,
        amount=amount,
        heldout=heldout,
        calibration=calibration,
        sequence_tokens=min([SEQUENCE_TOKENS, *(each - 4 for each in longest if isinstance(each, int))]),
        epochs=EPOCHS,
        step_tokens=step_tokens,
        steps=max(20, math.ceil(EPOCHS * train_tokens / step_tokens)),
        batch_tokens=16384 if machine.gpu else 2048,
        shard_rows=65536 if amount.kept_tokens > 5_000_000 else 2048,
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
        seen = survey(whole)
        found.append(replace(seen, params=seen.params.model_copy(update={"path": _path_in(folder, whole)})))
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

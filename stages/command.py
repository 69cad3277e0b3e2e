"""What the stage commands share: options, logging, one-line refusals with exit code 2, and a record of each run."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import platform
import resource
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ParamSpec, Self

import click

from pipeline.core.config import section
from pipeline.core.import_closure import command_digest
from pipeline.core.outputs import OUTPUTS
from pipeline.core.params import RuntimeParams
from pipeline.core.runtime import Runtime, apply
from storage.errors import DistillError
from storage.work import Workspace

P = ParamSpec("P")
Command = Callable[P, None]
log = logging.getLogger("stages")

PATH = click.Path(path_type=Path)


class _Located(click.ParamType[Path]):
    """A path, or the URL of a store, which becomes the folder in which it is fetched as it is read."""

    def __init__(self, *, folder: bool) -> None:
        self.name = "folder of stores or URL" if folder else "store or URL"
        self._folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Raises BadParameter, which is one line and exit code 2, when nothing sound is at the URL."""
        from storage.share.remote import local_folder, local_store

        try:
            return (local_folder if self._folder else local_store)(value)
        except DistillError as error:
            self.fail(str(error), param, ctx)


STORE, STORES = _Located(folder=False), _Located(folder=True)


def path_option(flag: str, description: str, **more: Any) -> Callable[[Command[P]], Command[P]]:
    """An option that is a path; required unless `more`, which goes to click, says otherwise."""
    settings: dict[str, Any] = {"required": True, "type": PATH, **more}
    return click.option(flag, help=description, **settings)


def out_option(what: str) -> Callable[[Command[P]], Command[P]]:
    """The option --out of a stage that writes a store to a path or a URL (`storage.share.remote.outlet`)."""
    return path_option("--out", f"{what} to write, or a URL to put it to.", type=str)


params_option = click.option(
    "--params",
    "params_file",
    type=PATH,
    default=Path("params.yaml"),
    show_default=True,
    help="Settings file.",
)


class _Terminated(BaseException):
    """SIGTERM came, as from a batch system whose time is over."""


def stage(function: Command[P]) -> Command[P]:
    """Make a DistillError one line on stderr and exit code 2; anything else is a bug and keeps its traceback.

    The last line of a stage that is interrupted, by SIGINT or SIGTERM, or that fails is what to run next.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
        for noisy in ("httpx", "httpx2", "huggingface_hub", "transformers"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        again = _same_again(Path(inspect.getfile(function)), kwargs)
        try:
            with _sigterm_raises():
                function(*args, **kwargs)
        except DistillError as error:
            click.echo(f"Error: {' '.join(str(error).split())}", err=True)
            sys.exit(2)
        except (KeyboardInterrupt, _Terminated) as stop:
            click.echo(f"Interrupted. To continue, run: {again}", err=True)
            sys.exit(130 if isinstance(stop, KeyboardInterrupt) else 143)
        except Exception as error:
            error.add_note(f"A fault of this project, or of its environment. When it is mended, run: {again}")
            raise

    return wrapper


def _same_again(file: Path, options: Mapping[str, Any]) -> str:
    """What runs this command again: a stage by DVC, under its name in dvc.yaml; a tool as it was called."""
    name, out = options.get("name"), options.get("out")
    named = file.stem in OUTPUTS and OUTPUTS[file.stem].section is not None
    if named and name is None and out is not None:
        name = out.stem  # of `wsd`, whose argument it is not
    if file.parent.name != "stages" or (named and name is None):
        return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return f"dvc repro {file.stem}" if name is None else f"dvc repro {file.stem}@{name}"


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM end the block by an exception, so that what is open is closed and a last line is written."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # signals are for the main thread alone
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def sequences_options(function: Command[P]) -> Command[P]:
    """The options --sequences and --masks, the two paths of `MaskedSequences.open_pair`."""
    masks = path_option("--masks", "Store of masks, or its URL.", type=STORE)
    return path_option("--sequences", "Store of sequences, or its URL.", type=STORE)(masks(function))


def corpus_options(function: Command[P]) -> Command[P]:
    """The options --documents, --sequences and --masks, the three paths of `MaskedCorpus.open`."""
    return path_option("--documents", "Store of documents, or its URL.", type=STORE)(sequences_options(function))


def workspace(file: str) -> Workspace:
    """Where the command in `file` works, with the digest of the modules that it imports."""
    return Workspace(code=command_digest(Path(file).stem))


def runtime_params(params_file: Path) -> RuntimeParams:
    """The section `runtime`."""
    return section(params_file, "runtime", RuntimeParams)


def shard_threads(settings: RuntimeParams) -> int:
    """How many shards this process makes at a time when `runtime.scheduler` is `threads`."""
    return settings.threads or os.cpu_count() or 1


class Run:
    """Record of one run, written to `reports/runs/<name>.json` when the block ends without an exception.

    It has seconds, peak memory and software, device and dtype where `apply` was called, and what `add` was given. It
    lies outside the stores, which must not differ between runs. Seconds of an interrupted run are not in it: where this
    one took up its work, the record has `continued`, true.
    """

    def __init__(self, name: str | None, file: str, folder: Path = Path("reports/runs")) -> None:
        """`file` is that of the command; without a name nothing is written."""
        self.path = None if name is None else folder / f"{name}.json"
        self.command = Path(file).stem
        self._file = file
        self._facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        return self

    @functools.cached_property
    def workspace(self) -> Workspace:
        """Where the command works."""
        return workspace(self._file)

    def apply(self, params: RuntimeParams, *, float32: bool = False) -> Runtime:
        """Choose device and dtype for this process; float32 says that the command computes in it whatever is chosen."""
        runtime = apply(params, workspace=self.workspace)
        self.add(**runtime.facts() | ({"dtype": "float32"} if float32 else {}))
        return runtime

    def add(self, **facts: Any) -> None:
        """Add to the record."""
        self._facts |= facts

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or self.path is None:
            return
        usage = resource.getrusage(resource.RUSAGE_SELF)
        worked_in: Workspace | None = vars(self).get("workspace")  # if the command asked for it
        record = {
            "seconds": round(time.monotonic() - self._began, 2),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "peak_memory_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            **({"continued": True} if worked_in is not None and worked_in.continued else {}),
            **self._facts,
        }
        if "torch" in sys.modules:
            record["torch"] = version("torch")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        log.info(
            "%s: %.1f s, peak memory %.2f GB", self.path.stem, record["seconds"], record["peak_memory_bytes"] / 1e9
        )

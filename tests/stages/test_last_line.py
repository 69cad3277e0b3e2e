"""The last line of a stage that is stopped or that fails says what to run next."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from stages import report, train, wsd
from stages.tools import prune

ROOT = Path(__file__).parents[2]
TRAIN = ("fused", "--sequences", "s", "--masks", "m", "--tokenizer", "t", "--out", "models/fused")
MASK = ("--sequences", "s", "--out", "data/masks", "--tokenizer", "t")
WSD = ("--model", "models/lexical", "--senses", "data/senses", "--documents", "d", "--out", "reports/wsd/lexical.json")


@pytest.fixture(autouse=True)
def interrupts_arrive() -> Iterator[None]:
    """A shell starts a background job with SIGINT ignored; the tests are about a stage that receives it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stop_by(number: int) -> Callable[..., None]:
    return lambda *_, **__: os.kill(os.getpid(), number)


def crash(*_: object, **__: object) -> None:
    raise ZeroDivisionError("a bug")


def run(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("module", "arguments", "target"),
    [(train, TRAIN, "train@fused"), (wsd, WSD, "wsd@lexical"), (report, (), "report")],
)
def test_a_stopped_stage_names_itself_as_dvc_does(
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    arguments: tuple[str, ...],
    target: str,
    number: signal.Signals,
    code: int,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for name in ("section", "runtime_params", "read_settings"):
        monkeypatch.setattr(module, name, stop_by(number), raising=False)
    done = run(module.main, *arguments)
    assert done.exit_code == code
    assert done.output.splitlines()[-1] == f"Interrupted. To continue, run: dvc repro {target}"
    assert signal.getsignal(signal.SIGTERM) is before
    stage, _, name = target.partition("@")
    described = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    assert ("foreach" in described) == bool(name)


def test_a_fault_keeps_its_traceback_and_ends_with_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "section", crash)
    done = run(train.main, *TRAIN)
    assert isinstance(done.exception, ZeroDivisionError)
    printed = "".join(traceback.format_exception(done.exception)).splitlines()
    assert printed[0] == "Traceback (most recent call last):"
    assert printed[-2] == "ZeroDivisionError: a bug"
    assert printed[-1].endswith("When it is mended, run: dvc repro train@fused")


def test_a_tool_names_the_command_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/cohesive", "prune", "--yes"])
    for name in ("read_settings", "removable", "read_consistent", "prune"):
        monkeypatch.setattr(prune, name, stop_by(signal.SIGINT), raising=False)
    done = run(prune.main, "--yes")
    assert done.exit_code == 130
    assert done.output.splitlines()[-1] == "Interrupted. To continue, run: cohesive prune --yes"

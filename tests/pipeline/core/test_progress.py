"""Progress of a long step: a log line every 30 seconds where there is no terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest

from pipeline.core import progress
from pipeline.core.progress import Progress, per_second


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)


def clock(monkeypatch: pytest.MonkeyPatch, times: Iterable[float]) -> None:
    """The clock is read once at the start and once at every `advance`."""
    left = iter(times)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(left))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


def test_a_line_every_thirty_seconds_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock(monkeypatch, [0.0, 10.0, 30.0, 45.0])
    with caplog.at_level(logging.INFO), Progress(100, unit="predictions", label="teach fox", done=10) as bar:
        bar.advance(10)
        bar.advance(20)
        bar.advance(10)
    assert lines(caplog) == ["teach fox: 40 of 100 predictions (40%), 1 a second, 60 s left"]


def test_a_rate_below_one_a_second_is_no_zero(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock(monkeypatch, [0.0, 20.0, 40.0])
    with caplog.at_level(logging.INFO), Progress(112, unit="steps", label="train fused") as bar:
        bar.advance(1)
        bar.advance(1)
    assert lines(caplog) == ["train fused: 2 of 112 steps (2%), 0.05 a second, 2200 s left"]


def test_rate_and_time_left_are_those_of_the_last_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A step every 10 seconds for 5 minutes, then one every 2 seconds: the start is forgotten after a minute."""
    times = [10.0 * step for step in range(31)] + [300 + 2.0 * step for step in range(1, 46)]
    clock(monkeypatch, times)
    with caplog.at_level(logging.INFO), Progress(1000, unit="steps", label="train") as bar:
        for _ in times[1:]:
            bar.advance(1)
    found = lines(caplog)
    assert found[9] == "train: 30 of 1000 steps (3%), 0.1 a second, 9700 s left"
    # At 330 s the last minute has 3 slow steps and 15 fast ones; from 360 s on all are fast.
    assert found[10] == "train: 45 of 1000 steps (4%), 0.3 a second, 3183 s left"
    assert found[11] == "train: 60 of 1000 steps (6%), 0.5 a second, 1880 s left"
    assert found[12] == "train: 75 of 1000 steps (8%), 0.5 a second, 1850 s left"


def test_many_steps_a_second_keep_few_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [n / 100 for n in range(20_001)]
    clock(monkeypatch, times)
    with Progress(10**6, unit="predictions", label="teach") as bar:
        for _ in times[1:]:
            bar.advance(1)
        assert len(bar._marks) <= 62


@pytest.mark.parametrize(
    ("rate", "shown"), [(0.0042, "0.0042"), (0.416, "0.42"), (1.0, "1"), (3.46, "3.5"), (9.96, "10"), (1234.5, "1234")]
)
def test_rates_have_two_digits_below_ten(rate: float, shown: str) -> None:
    assert per_second(rate) == shown

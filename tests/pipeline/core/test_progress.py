"""What a long step says: a line every 30 seconds where there is no terminal."""

from __future__ import annotations

import logging

import pytest

from pipeline.core import progress
from pipeline.core.progress import Progress


def test_a_line_every_thirty_seconds_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter([0.0, 10.0, 30.0, 30.0, 45.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO), Progress(100, unit="predictions", label="teach fox", done=10) as bar:
        bar.advance(10)
        bar.advance(20)
        bar.advance(10)
    assert [record.message for record in caplog.records] == [
        "teach fox: 40 of 100 predictions (40%), 1 a second, 60 s left"
    ]

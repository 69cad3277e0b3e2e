"""Commands of stages, called in this process."""

from __future__ import annotations

import click
from click.testing import CliRunner, Result


def call(command: click.Command, *arguments: str) -> Result:
    """What the command did; raises AssertionError when it neither succeeded nor refused (exit codes 0 and 2)."""
    result = CliRunner().invoke(command, list(arguments))
    if result.exit_code not in (0, 2):
        raise AssertionError(result.output) from result.exception
    return result

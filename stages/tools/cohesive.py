"""The command `cohesive`: what a person runs. dvc.yaml calls the stages by `python -m stages.<name>`.

A command's module is imported when it runs: most import torch or pyarrow, which costs seconds.
"""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "init": ("stages.tools.init", "Write a params.yaml for your teachers, student and texts."),
    "check": ("stages.check", "Check all of params.yaml before any work."),
    "show": ("stages.tools.show", "Print one document as all stores hold it."),
    "store": ("stages.tools.store", "Look at stores, check them, and hand them on: info, verify, export and more."),
    "wsd": ("stages.tools.wsd", "Show the senses of a sentence's words, or score a model at them."),
    "report": ("stages.report", "Put all evaluations into one summary, pages and plots."),
    "choose": ("stages.tools.choose", "Compare students on calibration text, by which settings are chosen."),
    "prune": ("stages.tools.prune", "Remove what params.yaml no longer names."),
    "push": ("stages.tools.push", "Publish a student, an adapter or a store on the Hugging Face hub."),
    "export": ("stages.tools.export", "Write a model as ONNX, checked against PyTorch."),
    "pack": ("stages.tools.pack", "Write a student as the difference of its weights from its start's."),
}
"""Module and first line of help by name, in the order of use."""


class LazyGroup(click.Group):
    """The commands of COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; None when there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).main
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup)
@click.version_option(package_name="cohesive-distillation")
def main() -> None:
    """Offline distillation of masked language models: tools beside the pipeline, which `dvc repro` runs."""


if __name__ == "__main__":
    main()

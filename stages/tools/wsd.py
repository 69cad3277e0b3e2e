"""Word senses: score a lexical student (`stages.wsd`), or show what it says of a sentence that is typed."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pipeline.core.runtime import apply
from pipeline.lexical.params import HEAD_FILE, SENSES_FOLDER
from pipeline.lexical.reading.reader import sense_reader
from pipeline.lexical.reading.sentence import Word, read_senses
from stages import wsd
from stages.command import path_option, runtime_params, stage
from storage.atomic import write_bytes
from storage.errors import ParamsError, SourceError

STUDENTS = (Path("models/minilm-l6-wsd"), Path("models/lexical"))
"""Lexical students that are looked for when none is named."""

SHOWN = 5
"""Senses of a word shown on the terminal."""

NOTES = {
    True: "Words are tagged with NLTK's tagger; a word has the senses of its part of speech.",
    False: "Without NLTK's tagger a word has the senses of all its parts of speech; the student learned to choose "
    "within one. For the tagger: python -m nltk.downloader averaged_perceptron_tagger_eng",
}


@click.command()
@click.option("--text", help="A sentence: show the senses of its words.")
@path_option("--html", "With --text: also write a page for a browser.", required=False)
@path_option("--model", f"The lexical student's folder; with --text by default {STUDENTS[0]}.", required=False)
@stage
def main(text: str | None, html: Path | None, model: Path | None, **scoring: Any) -> None:
    """Show the senses of the words of --text, or score a student on --data with --gold or on --senses."""
    if text is None:
        if html is not None or model is None:
            raise ParamsError("wsd: expected --text with --html, or --model with --data or --senses")
        click.get_current_context().invoke(wsd.main, model=model, **scoring)
        return
    given = [name for name, value in scoring.items() if value and name != "params_file"]
    if given:
        raise ParamsError(f"wsd: expected --text alone or with --model and --html, got --{given[0]} too")
    show(text, model or first_student(), html=html, params_file=scoring["params_file"])


main.params += [option for option in wsd.main.params if option.name != "model"]


def show(text: str, student: Path, *, html: Path | None, params_file: Path) -> None:
    """Print the senses of the words of a text, and write them as a page where one is asked for."""
    if not text.strip():
        raise ParamsError("wsd: --text is empty")
    with sense_reader(student, apply(runtime_params(params_file))) as reader:
        words, tagged = read_senses(reader, text)
    for line in lines(words):
        click.echo(line)
    click.echo(NOTES[tagged])
    if html is not None:
        from pipeline.report.html.page import senses_page

        command = shlex.join(["cohesive", "wsd", "--model", str(student), "--text", text])
        shown = [asdict(word) for word in words]
        write_bytes(html, senses_page(text, shown, model=str(student), note=NOTES[tagged], command=command).encode())
        click.echo(f"Page: {html}")


def first_student() -> Path:
    """The first of `STUDENTS` that is there."""
    for folder in STUDENTS:
        if (folder / SENSES_FOLDER / HEAD_FILE).is_file():
            return folder
    raise SourceError(
        f"wsd: no lexical student in {' or '.join(map(str, STUDENTS))}. Run: dvc repro published@{STUDENTS[0].name}; "
        "or name one with --model"
    )


def lines(words: list[Word]) -> list[str]:
    """The words with their most probable senses."""
    found = [] if words else ["No word of the text is in the inventory."]
    for word in words:
        found.append(f"{word.word}  [{word.lemma}]")
        found += [
            f"  {sense.probability:.3f}  {', '.join(sense.lemmas)} ({sense.pos}): {sense.gloss}"
            for sense in word.senses[:SHOWN]
        ]
        if len(word.senses) > SHOWN:
            found.append(f"         and {len(word.senses) - SHOWN} more")
    return found


if __name__ == "__main__":
    main()

"""`cohesive wsd`: the senses of a typed sentence on the terminal and as a page, and the scores as before."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from stages.tools.wsd import main
from tests.helpers.browser import chromium, opened
from tests.helpers.lexical import make_workplace

ROOT = Path(__file__).parents[3]
PARAMS = ("--params", str(ROOT / "params.yaml"))
EVIL = "a dog hides on the bank </script><img src=x onerror=\"document.title='run'\">"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("senses")
    work = make_workplace(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        work.train(work.entry(training={"epochs": 1.0}), folder / "models" / "lexical")
    return folder / "models" / "lexical"


@pytest.fixture(autouse=True)
def no_tagger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.data.path", [])


def test_a_sentence_is_shown_with_senses_glosses_and_probabilities(student: Path, workplace: Path) -> None:
    done = CliRunner().invoke(main, ["--text", "the dog waits", "--model", str(student), *PARAMS])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == "dog  [dog (NOUN)]"
    assert {line[9:] for line in lines[1:3]} == {
        "dog (NOUN): an old animal that eats a bone", "Dog (NOUN): a lazy farmer",
    }  # fmt: skip
    assert sum(float(line.split()[0]) for line in lines[1:3]) == pytest.approx(1, abs=2e-3)
    assert lines[3].startswith("Without NLTK's tagger")


def test_a_student_is_looked_for_where_the_pipeline_makes_it(student: Path, workplace: Path) -> None:
    done = CliRunner().invoke(main, ["--text", "the dog waits", *PARAMS])
    assert done.exit_code == 2
    assert "Error: wsd: no lexical student in models/minilm-l6-wsd or models/lexical. Run: dvc repro pub" in done.output
    Path("models").mkdir()
    Path("models/lexical").symlink_to(student)
    done = CliRunner().invoke(main, ["--text", "the dog waits", *PARAMS])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--text", "a dog", "--senses", "data/senses"],
            "expected --text alone or with --model and --html, got --senses",
        ),
        (["--text", " "], "--text is empty"),
        (["--html", "x.html", "--model", "x"], "expected --text with --html, or --model with --data or --senses"),
        ([], "expected --text with --html, or --model with --data or --senses"),
        (["--model", "x"], "wsd: expected --data with --gold, or --senses; give one of the two"),
    ],
)
def test_a_refusal_is_one_line(workplace: Path, student: Path, arguments: list[str], message: str) -> None:
    if arguments[:2] == ["--text", " "]:
        arguments = [*arguments, "--model", str(student)]
    done = CliRunner().invoke(main, [*arguments, *PARAMS])
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_the_page_shows_the_sentence_as_text(student: Path, workplace: Path) -> None:
    page = workplace / "senses.html"
    done = CliRunner().invoke(main, ["--text", EVIL, "--model", str(student), "--html", str(page), *PARAMS])
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert "<img" not in text
    assert "<script" not in text
    assert "land beside the river" in text
    with chromium() as browser, opened(browser, page, width=390, scheme="dark") as shown:
        assert shown.title() == "Word senses"
        assert shown.locator("#text").inner_text() == EVIL
        assert shown.locator("h2").all_inner_texts() == ["Sentence", "dog", "hides", "bank"]
        assert shown.locator(".sense").count() == 2 + 2 + 3
        assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")

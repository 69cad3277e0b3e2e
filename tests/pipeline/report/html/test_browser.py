"""The page in a headless Chromium: charts are drawn, the explorer responds, keyboard and screen readers get by.

Not checked here: whether it looks good.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from pipeline.evaluate.top_tokens import TopTokens, spelled
from tests.helpers.browser import chromium, opened
from tests.pipeline.report.html.conftest import EVIL, Made

DRAWN = "[...document.querySelectorAll('.chart')].every(chart => chart.dataset.drawn === '{}')"

CUT = """[...document.querySelectorAll('.chart svg')].flatMap((svg) => [...svg.querySelectorAll('.role-legend text')]
  .filter((text) => text.getBoundingClientRect().right > svg.getBoundingClientRect().right + 1)
  .map((text) => text.textContent))"""
"""Labels of legends beyond the edge of their chart, where they would not be seen."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Any, made: Made) -> Iterator[Any]:
    with opened(browser, made.page) as found:
        yield found


def shown(page: Any) -> int:
    """Positions that pass the filters, as the page says."""
    return int(page.locator("#count").inner_text().split()[0].replace(",", ""))


def heads(top: TopTokens) -> list[str]:
    return [entries[0][0] if entries else "" for entries in top.top_Q]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_all_is_drawn_and_legible_in_light_and_dark_wide_and_narrow(
    browser: Any, made: Made, width: int, scheme: str
) -> None:
    """axe-core finds no fault in labels, roles, headings and contrast; nothing is wider than the page."""
    with opened(browser, made.page, width=width, scheme=scheme) as page:
        page.wait_for_function(DRAWN.format(scheme))
        assert page.locator(".chart svg").count() == page.locator(".chart").count() >= 4
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert len(found.response["passes"]) > 20
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(CUT) == []


def test_charts_follow_the_scheme_and_the_legend(page: Any) -> None:
    page.wait_for_function(DRAWN.format("light"))
    before = page.locator(".chart svg").first.inner_html()
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(DRAWN.format("dark"))
    assert page.locator(".chart svg").first.inner_html() != before
    convergence = page.locator("#convergence .chart")
    lines = convergence.locator("path[aria-roledescription='line mark']")
    assert [lines.nth(number).get_attribute("opacity") for number in range(lines.count())] == ["1", "1"]
    convergence.locator(".role-legend-symbol path").first.click()
    page.wait_for_function("document.querySelector('#convergence path[opacity=\"0.12\"]') !== null")


def test_texts_are_shown_as_texts(page: Any, made: Made) -> None:
    assert page.title() == "Results on held-out text"
    assert page.locator("#main img").count() == 0
    assert page.locator("#text").inner_text().startswith(EVIL.split('"', maxsplit=1)[0])


def test_filters_count_what_the_evaluations_say(page: Any, made: Made) -> None:
    alpha, beta, fused = (heads(made.evaluations[name].top) for name in ("alpha", "beta", "confident"))
    truth = [spelled(made.heldout.tokens[label]) for label in made.heldout.masked.label_P]
    best = {"alpha": alpha, "beta": beta}[made.summary["fusions"]["confident"]["best_teacher"]]
    rows = list(zip(alpha, beta, fused, best, truth, strict=True))
    expected = {
        "": len(truth),
        "disagree": sum(bool(a and b and a != b) for a, b, *_ in rows),
        "gain": sum(f == t != b for _, _, f, b, t in rows),
        "loss": sum(f != t == b for _, _, f, b, t in rows),
    }
    for value, count in expected.items():
        page.select_option("#show", value)
        assert shown(page) == count, value
    page.select_option("#show", "")
    source = made.heldout.source_D[0]
    page.select_option("#source", source)
    documents = [made.heldout.source_D[d] == source for d in made.heldout.document_P]
    assert shown(page) == sum(documents)
    page.select_option("#source", "")
    page.fill("#search", "no such word")
    assert shown(page) == 0
    assert page.locator("#about").inner_text() == "No masked position passes the filters."
    page.fill("#search", "FARMER")
    assert 0 < shown(page) < len(truth)


def test_a_position_is_found_where_the_fusion_is_right_and_its_best_teacher_wrong(page: Any, made: Made) -> None:
    """The way that README shows: choose the filter, and read the first position that passes."""
    page.get_by_label("Show").select_option(label="the fusion is right where its best teacher is wrong")
    assert shown(page) >= 1
    best = made.summary["fusions"]["confident"]["best_teacher"]
    assert page.locator("#count").inner_text().endswith(f"Best teacher of confident, by its NLL: {best}.")
    assert page.locator("#text button[aria-pressed=true]").get_attribute("class") == "mark gain"
    truth = page.locator("#answers strong").inner_text()
    first = {
        row.locator("th").inner_text(): row.locator("td.token").first.inner_text().split()
        for row in page.locator("#answers tbody tr").all()
    }
    assert first["confident fusion"][:2] == ["✓", truth]
    assert first[f"{best} teacher"][0] not in ("✓", truth)


def test_a_position_shows_every_models_tokens_weights_and_the_true_one(page: Any, made: Made) -> None:
    page.locator("#text button").nth(1).click()
    number = int(page.evaluate("location.hash").removeprefix("#position-"))
    rows = page.locator("#answers tbody tr")
    names = [rows.nth(row).locator("th").inner_text() for row in range(rows.count())]
    assert names == ["alpha teacher", "beta teacher", "confident fusion", "fused student", "labels student"]
    weights = made.evaluations["confident"].top.weights
    for row, name in enumerate(("alpha", "beta")):
        assert float(rows.nth(row).locator("td").first.inner_text()) == pytest.approx(weights[name][number], abs=6e-4)
    for row, name in enumerate(("alpha", "beta", "confident", "student/fused")):
        first = rows.nth(row).locator("td.token").first.inner_text()
        entries = made.evaluations[name].top.top_Q[number]
        token, p = first.replace("✓ ", "").split()
        assert (token, float(p)) == (entries[0][0], pytest.approx(entries[0][1], abs=6e-4))
    label = spelled(made.heldout.tokens[made.heldout.masked.label_P[number]])
    assert page.locator("#answers strong").inner_text() == label
    page.reload()
    assert page.locator("#text button[aria-pressed=true]").count() == 1
    assert page.evaluate("location.hash") == f"#position-{number}", "a link to one position"
    assert page.locator("#answers strong").inner_text() == label


def test_the_keyboard_is_enough(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator("#search").focus()
    for _ in range(4):  # source, show, texts: the choice of the fusion is hidden where there is one
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "examples":
            break
    before = page.locator("#about").inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator("#about").inner_text() != before or page.locator("#examples option").count() < 3
    for name in ("previous", "next"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == name
    chosen = page.locator("#text button[aria-pressed=true]").get_attribute("aria-label")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName + document.activeElement.type") == "BUTTONbutton"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert page.locator("#answers").get_attribute("aria-live") == "polite"
    assert chosen is not None
    assert chosen.startswith("masked: ")

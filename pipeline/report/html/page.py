"""Fill the templates: one file with its styles, scripts, charts and data inside, which opens without a network.

Texts of documents are data, in a JSON element or escaped: a page shows what is written in them and runs none of it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from pipeline.report.html.explorer import Explorer
from pipeline.report.html.parts import Students
from pipeline.report.html.sections import sections

ASSETS = files("pipeline.report.html") / "assets"


def report_page(summary: dict[str, Any], students: Students, explorer: Explorer) -> str:
    """The page of a summary; `students` has each student's entries by seed."""
    found = sections(summary, students)
    charts = any(section.figures for section in found)
    return _fill(
        "report.html.j2",
        sections=found,
        explorer=explorer,
        run=[(key, summary["run"][key]) for key in ("python", "torch", "device", "dtype") if summary["run"].get(key)],
        library=Markup(_vega()) if charts else None,
    )


def senses_page(title: str, words: Sequence[Mapping[str, Any]], **about: Any) -> str:
    """The page of a sentence's senses (`pipeline.lexical.reading.sentence`)."""
    return _fill("senses.html.j2", title=title, words=words, **about)


def embedded(value: Any) -> Markup:
    """JSON for a script element that is no script: no "<", so that nothing in it ends the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _asset(name: str) -> Markup:
    text = (ASSETS / name).read_text(encoding="utf-8")
    assert "</script" not in text and "</style" not in text, name
    return Markup(text)


def _fill(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (ASSETS / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"asset": _asset, "embedded": embedded}
    return environment.get_template(template).render(**values) + "\n"


@functools.cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed, about 0.9 MB, which vl-convert carries: nothing is fetched."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    assert "</script" not in bundle
    return bundle

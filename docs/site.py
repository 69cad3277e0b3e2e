"""What the site adds to docs/: pages that live at the root, API pages, and links to files of the repository.

README.md, FORMAT.md, CHANGELOG.md and the report stay where they are looked for, and are pages of the site too. A
link from a page to a file outside docs/ works on GitHub as it stands. On the site a module becomes its API page, and
any other file is copied beside the pages. A link to a file that does not exist is left for MkDocs to refuse.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "FORMAT.md": "format.md",
    "CHANGELOG.md": "changelog.md",
    "reports/report.md": "results/report.md",
}
"""Pages that do not live in docs/, and what they are called on the site."""

PACKAGES = ("pipeline", "storage", "stages")
DOCS = "docs/"
COPIED = "files"
"""Folder of the site for files of the repository."""

LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def folders() -> dict[str, Path]:
    """Dotted name and folder of every package that gets an API page."""
    found = (path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py"))
    return {".".join(folder.relative_to(ROOT).parts): folder for folder in sorted(found)}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the API pages in the navigation."""
    for entry in config.nav or []:
        if isinstance(entry, dict) and "API" in entry:
            entry["API"] = [{name: f"api/{name}.md"} for name in folders()]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages at the root and the API pages."""
    for source, name in ELSEWHERE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    for name, folder in folders().items():
        modules = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
        blocks = "\n".join(f"::: {name}.{module}\n    options: {{show_root_heading: true}}\n" for module in modules)
        about = f"::: {name}\n    options: {{members: false}}\n"
        files.append(File.generated(config, f"api/{name}.md", content=f"# {name}\n\n{about}\n{blocks}"))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links within the site."""
    here = page.file.src_uri
    source = next((root for root, name in ELSEWHERE.items() if name == here), f"{DOCS}{here}")

    def moved(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        place, anchor = _on_site(target, found[2] or "")
        path = ROOT / target
        if place.startswith(COPIED) and path.is_file() and files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, abs_src_path=str(path)))
        return f"]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{anchor})"

    fences = FENCE.findall(markdown)
    prose = [LINK.sub(moved, part) for part in FENCE.split(markdown)]
    return "".join(part + fence for part, fence in zip(prose, [*fences, ""], strict=True))


def _on_site(target: str, anchor: str) -> tuple[str, str]:
    """Where a file of the repository is on the site, and at which anchor."""
    if target in ELSEWHERE:
        return ELSEWHERE[target], anchor
    if target.startswith(DOCS) and not target.endswith(".py"):
        return target.removeprefix(DOCS), anchor
    path = Path(target)
    if path.parts[0] in PACKAGES and path.suffix == ".py":
        return f"api/{'.'.join(path.parent.parts)}.md", f"#{'.'.join(path.with_suffix('').parts)}"
    if path.parts[0] in PACKAGES and (ROOT / path).is_dir():
        return f"api/{'.'.join(path.parts)}.md", ""
    # Other Markdown is shown as text: only pages of the navigation are pages.
    return f"{COPIED}/{target}{'.txt' if path.suffix == '.md' else ''}", anchor

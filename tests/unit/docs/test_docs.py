"""The documents point at what exists."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "images" / "README.md", *(ROOT / "docs").rglob("*.md")])
_PLACES = (ROOT, ROOT / "src", ROOT / "src" / "xenstack", ROOT / "src" / "xenstack" / "host", ROOT / "images" / "guest")


def _prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", _prose(page)):
        file, _, anchor = target.partition("#")
        if file.startswith(("http:", "https:")):
            continue
        where = (page.parent / file).resolve() if file else page
        assert where.exists(), f"{page.name} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", where.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
            assert anchor in slugs, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`([\w./-]+\.(?:py|md|txt|toml|sh))\b[^`]*`", _prose(page)):
        places = [*_PLACES, page.parent]
        found = [place / name for place in places if (place / name).exists()]
        named_alone = "/" not in name and list((ROOT / "src" / "xenstack").rglob(name))
        assert found or named_alone, f"{page.name} speaks of {name}"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


def test_every_decision_is_in_the_list() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = set(re.findall(r"\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text()))
    assert listed == {p.name for p in folder.glob("[0-9]*.md")}


@pytest.mark.parametrize("name", ["messages", "operations", "driver_options"])
def test_reference_pages_are_what_the_code_says(name: str) -> None:
    """`python docs/reference/make.py` writes them."""
    made = runpy.run_path(str(ROOT / "docs" / "reference" / "make.py"))
    made["load_all"]()
    page = ROOT / "docs" / "reference" / f"{name.replace('_', '-')}.md"
    assert page.read_text() == "\n".join(made[name]()) + "\n"

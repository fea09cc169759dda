"""The pages of README and docs: links lead somewhere, every page is in the site's navigation, and no page is long."""

import os
import re
import subprocess
import sys
import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from yaml import SafeLoader, load

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MOST_LINES = 200
GENERATED = "<!-- Made by docs/generate_reference.py"
SITE = [path.relative_to(ROOT).as_posix() for path in sorted(DOCS.rglob("*.md"))]
OTHERS = ["README.md", "CONTRIBUTING.md"]


@cache
def prose(page: str) -> str:
    """The page without its blocks of code and its inline code."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


@cache
def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and as the site make them: those that are alike."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = [re.sub(r"[`*]", "", title) for title in re.findall(r"^#{1,6} (.+)$", text, flags=re.MULTILINE)]
    plain = [re.sub(r"[^\w\s-]", "", unicodedata.normalize("NFKD", title)).strip().lower() for title in titles]
    return {re.sub(r"\s", "-", title) for title in plain} & {re.sub(r"[-\s]+", "-", title) for title in plain}


@pytest.mark.parametrize("page", [*SITE, *OTHERS])
def test_links_lead_somewhere(page):
    wrong = []
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        place, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / place).resolve() if place else ROOT / page
        if not target.is_file() or (anchor and anchor not in anchors(target.relative_to(ROOT).as_posix())):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", SITE)
def test_links_of_the_site_stay_in_it(page):
    """A link to a file outside docs/ works on GitHub, and on the site nowhere."""
    local = [link.partition("#")[0] for link in links(page) if "://" not in link]
    assert [place for place in local if DOCS not in ((ROOT / page).parent / place).resolve().parents and place] == []


def test_every_page_is_in_the_navigation_once():
    def pages(entry):
        if isinstance(entry, str):
            yield f"docs/{entry}"
        else:
            for inner in entry if isinstance(entry, list) else entry.values():
                yield from pages(inner)

    listed = list(pages(load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), SafeLoader)["nav"]))
    assert sorted(listed) == SITE


def test_the_site_loads_nothing_from_elsewhere():
    settings = load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), SafeLoader)
    assert settings["theme"]["font"] is False
    named = [*settings["extra"]["polyfills"], *settings["extra_css"]]
    assert all((DOCS / place).is_file() for place in named)
    # The plugin adds its own, from a CDN, unless a place of this name is given.
    assert any("iframe-worker" in place for place in named)


@pytest.mark.parametrize("page", SITE)
def test_no_page_is_long(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert GENERATED in text or len(text.splitlines()) <= MOST_LINES


@pytest.mark.slow
@pytest.mark.skipif(find_spec("material") is None, reason="mkdocs-material is not installed: make docs")
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?(https?://[^\"'\s>]+)", text)
        loaded += re.findall(
            r"<link[^>]*rel=[\"']?(?:stylesheet|preconnect|icon)[^>]*href=[\"']?(https?://[^\"'\s>]+)", text
        )
        assert loaded == [], page

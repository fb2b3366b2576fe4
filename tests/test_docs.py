"""The site: it names every public function, shows every page, and builds without a warning."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scgeneformer as gf

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PACKAGES = ("pp", "tl", "pl", "get", "models", "datasets")
DIRECTIVE = r"^\.\. (?:py:data|auto(?:data|class|exception)):: (?:scgeneformer\.)?(\S+)"

pytestmark = pytest.mark.skipif(not (DOCS / "conf.py").is_file(), reason="only the installed package is here")


def documented(page: str) -> list[str]:
    """Names that a page of functions lists, without that of the package."""
    text = (DOCS / "api" / f"{page}.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\.\. autosummary::\n(.*?)^```$", text, flags=re.M | re.S)
    return re.findall(r"^   ([\w.]+)$", "\n".join(tables), flags=re.M) + re.findall(DIRECTIVE, text, flags=re.M)


def toctrees(page: Path) -> list[str]:
    """Pages, as paths from the folder docs, that a page puts into the site."""
    blocks = re.findall(r"^```{toctree}\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    names = re.findall(r"^([\w/*.-]+)$", "\n".join(blocks), flags=re.M)
    return [(page.parent / name).relative_to(DOCS).as_posix() for name in names]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_its_page(package):
    public = [f"{package}.{name}" for name in getattr(gf, package).__all__]
    assert sorted(documented(package)) == sorted(public)


def test_settings_and_errors_have_their_page():
    rest = {name for name in gf.__all__ if name not in PACKAGES and name != "__version__"}
    assert set(documented("settings")) == rest | {"settings.Settings"}


def test_every_page_is_in_the_site():
    listed = toctrees(DOCS / "index.md") + toctrees(DOCS / "api" / "index.md")
    assert len(listed) == len(set(listed))
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in [*DOCS.glob("*.md"), *DOCS.glob("api/*.md")]}
    tutorials = {f"tutorials/{path.stem}" for path in (ROOT / "tutorials").glob("*.ipynb")}
    assert set(listed) == (pages | tutorials | {"project/*"}) - {"index"}


def test_tutorials_link_to_pages_that_exist():
    for path in (ROOT / "tutorials").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        links = re.findall(r"\]\((?!https?://)([^)#]+)", text)
        assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.long
def test_the_site_builds(tmp_path):
    """Without a warning, and with the links of pages followed to where they are on the site."""
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip('needs the extra "docs"')
    command = [sys.executable, "-W", "ignore", "-m", "sphinx", "-W", "-q", "-E", "-b", "html", DOCS, tmp_path]
    built = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "api" / "generated" / "scgeneformer.tl.embed_cells.html").read_text(encoding="utf-8")
    assert "tokens_per_batch" in page
    assert "X_geneformer_&lt;groupby&gt;" in page
    links = re.findall(
        r'href="([^"#:?]+\.(?:html|md|ipynb))', (tmp_path / "get-started.html").read_text(encoding="utf-8")
    )
    assert [link for link in links if not (tmp_path / link).is_file()] == []

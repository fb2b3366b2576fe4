"""Sphinx: ``sphinx-build -W -b html docs docs/_build``, from the root of a checkout, without network."""

from __future__ import annotations

import os
import re
import shutil
from importlib.metadata import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent

info = metadata("scgeneformer")
project = info["Name"]
author = "The scgeneformer developers"
copyright = author
version = release = info["Version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
templates_path = ["_templates"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
default_role = "literal"

# --- text ---
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "off"  # tutorials are shown as they were run
nb_merge_streams = True
nb_output_stderr = "remove"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

# --- the functions: numpydoc docstrings, types from the signatures ---
autosummary_generate = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_maximum_signature_line_length = 100
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Returns"]  # as it is written: a sentence, then one entry for each key that is set

# --- links to other packages need the network, which only the host of the site is sure to have ---
intersphinx_mapping = (
    {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }
    if os.environ.get("READTHEDOCS")
    else {}
)

# --- the site ---
smartquotes = False
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2}

# --- pages that lie elsewhere in the checkout are copied in, and links follow them ---
PAGES = ("CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
COPIES = {ROOT / page: DOCS / "project" / page.replace("/", "-").lower() for page in PAGES if (ROOT / page).is_file()}
COPIES |= {path: DOCS / "tutorials" / path.name for path in sorted((ROOT / "tutorials").glob("*.ipynb"))}
ELSEWHERE = {ROOT / "README.md": DOCS / "get-started.md"}  # what stands for a page that the site does not show
SOURCES = {copy.with_suffix(""): page for page, copy in COPIES.items()}


def copy_pages() -> None:
    """Anew each time, so that no page stays that is gone; files that are the same keep their time."""
    for folder in {copy.parent for copy in COPIES.values()}:
        folder.mkdir(exist_ok=True)
        for old in set(folder.iterdir()) - set(COPIES.values()):
            old.unlink()
    for page, copy in COPIES.items():
        if not copy.is_file() or copy.read_bytes() != page.read_bytes():
            shutil.copyfile(page, copy)


def relink(app: Sphinx, name: str, text: list[str]) -> None:
    """Point the relative links of a page to where its targets are on the site."""
    page = DOCS / name
    written = SOURCES.get(page, page)

    def moved(match: re.Match) -> str:
        target = (written.parent / match[1]).resolve()
        target = COPIES.get(target) or ELSEWHERE.get(target) or target
        return f"]({Path(os.path.relpath(target, page.parent)).as_posix()}"

    text[0] = re.sub(r"\]\((?!https?:|#|mailto:)([^)#\s\"]+)", moved, text[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    copy_pages()
    app.connect("source-read", relink)

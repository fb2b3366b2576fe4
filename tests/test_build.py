"""What is published: wheel, sdist, recipe and lists agree with pyproject.toml; a wheel works where nothing else is."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
CONDA = {"huggingface-hub": "huggingface_hub", "igraph": "python-igraph", "matplotlib": "matplotlib-base"}
CONDA |= {"torch": "pytorch"}  # names that differ
MAX_WHEEL = 15_000_000

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="only the installed package is here")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads(read("pyproject.toml"))["project"]


def bounds(requirements: list[str]) -> dict[str, str]:
    """Oldest version that is allowed of each package."""
    found = (re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement) for requirement in requirements)
    return {match[1]: match[2] for match in found if match}


def test_the_version_is_the_same_everywhere(project):
    assert f"\nversion: {project['version']}\n" in read("CITATION.cff")
    assert f'version: "{project["version"]}"' in read("packaging/conda/recipe.yaml")


def test_recipe_asks_for_what_the_package_asks_for(project):
    run = read("packaging/conda/recipe.yaml").split("  run:\n")[1].split("\n\n")[0]
    found = dict(re.findall(r"- ([\w-]+) >=([\d.]+)", run))
    assert found == {CONDA.get(name, name): bound for name, bound in bounds(project["dependencies"]).items()}


def test_lowest_versions_are_those_that_are_allowed(project):
    extras = [project["optional-dependencies"][name] for name in ("dask", "datasets", "lora", "search")]
    allowed = bounds([*project["dependencies"], *chain.from_iterable(extras)])
    lowest = dict(re.findall(r"^([\w-]+)==([\d.]+)$", read("constraints-lowest.txt"), flags=re.M))
    for name, bound in allowed.items():
        assert f"{lowest[name]}.".startswith(f"{bound}."), name


def test_what_opens_files_lazily_comes_with_an_extra_for_users(project):
    assert {"dask", "distributed", "xarray"} <= set(bounds(project["optional-dependencies"]["dask"]))


def test_tested_versions_are_among_those_that_are_allowed(project):
    tested = dict(re.findall(r"^([\w-]+)==([\w.]+)", read("constraints.txt").replace("_", "-"), flags=re.M))
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.specifier.contains(tested[requirement.name]), requirement


@pytest.mark.long
def test_scanpy_reads_the_neighbours_of_many_cells():
    """From 8,192 cells on, with a cosine from 4,096, as in gf.pl.gene_embedding, scanpy takes pynndescent."""
    import scanpy as sc

    cells = AnnData(np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32))
    sc.pp.neighbors(cells, n_neighbors=5, use_rep="X", transformer="pynndescent")
    assert ((cells.obsp["distances"] > 0).sum(axis=1) >= 4).all()


def test_every_extra_is_documented(project):
    page = read("docs/get-started.md")
    assert [extra for extra in project["optional-dependencies"] if f"[{extra}]" not in page] == []


def test_the_entry_of_the_ecosystem_is_complete(project):
    entry = read("packaging/ecosystem/meta.yaml")
    fields = "name description project_home documentation_home install primary_category tags license language category"
    assert [field for field in fields.split() if not re.search(rf"^{field}:", entry, flags=re.M)] == []
    assert f"license: {project['license']}\n" in entry


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """Wheel and sdist by suffix; the wheel is built from the sdist."""
    if find_spec("build") is None:
        pytest.skip('needs the package "build", of the extra "dev"')
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    return {path.suffix: path for path in out.iterdir()}


def run(*command: object, **more: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_wheel_and_sdist_hold_what_they_should(built):
    assert built[".whl"].stat().st_size < MAX_WHEEL
    wheel = zipfile.ZipFile(built[".whl"]).namelist()
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"scgeneformer"}
    needed = ("py.typed", "models/models.toml", "models/mini/model.safetensors", "models/mini/genes.tsv")
    assert {f"scgeneformer/{name}" for name in needed} <= set(wheel)
    with tarfile.open(built[".gz"]) as sdist:
        top = {name.split("/")[1] for name in sdist.getnames()}
    assert {"tests", "docs", "tutorials", "packaging", "LICENSE", "constraints.txt", "CITATION.cff"} <= top
    assert not top & {".ci", "shared", "figures"}


@pytest.mark.long
def test_a_wheel_works_in_an_empty_environment(built, tmp_path):
    """Minutes: everything is installed anew. -I: without what PYTHONPATH and the folder would add."""
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-I", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", built[".whl"])
    run(python, "-I", "-m", "pip", "check")
    code = "import scgeneformer as gf; a = gf.datasets.pbmc68k()[:5].copy(); gf.tl.embed_cells(a, 'mini'); "
    code += "print(gf.__file__, a.obsm['X_geneformer'].shape)"
    said = run(python, "-I", "-c", code, cwd=tmp_path)
    assert str(tmp_path) in said
    assert "(5, 128)" in said
    assert "mini" in run(python, "-I", "-m", "scgeneformer", "models", cwd=tmp_path)

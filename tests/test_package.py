"""Conventions as tests: layering, import cost, signatures, docstrings, examples, README."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

import scgeneformer as gf

PACKAGE = Path(gf.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(PACKAGE.rglob("*.py"))
FACE = ("pp", "tl", "pl", "get")
LISTS = ("", *FACE, "models", "datasets")  # packages whose __init__ only lists
MAX_LINES, MAX_POSITIONAL = 400, 3
UNSAFE = ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
COMMANDS = [
    "pip install -c constraints.txt . && scgeneformer demo",
    'pip install -c constraints.txt ".[test]" && pytest',
]

in_checkout = pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="only the installed package is here")


def name_of(path: Path) -> str:
    """Dotted name of a module of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> set[str]:
    """What a piece of code imports, anywhere in it: dotted names, those imported from a module included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def at_import(tree: ast.Module) -> ast.Module:
    """The statements that run when a module is imported."""

    def runs(node: ast.stmt) -> bool:
        return not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")

    def is_function(node: ast.stmt) -> bool:
        return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)

    return ast.Module([node for node in tree.body if runs(node) and not is_function(node)], [])


def offending(names: set[str], *banned: str, allowed: tuple[str, ...] = ()) -> list[str]:
    """Those of `names` that are in one of the `banned` modules."""
    return sorted(n for n in names if n not in allowed and any(f"{n}.".startswith(f"{b}.") for b in banned))


def public(*packages: str, classes: bool = False) -> dict[str, object]:
    """Public functions of subpackages, by the name a user writes, and classes if asked for."""
    found = {}
    for package in packages:
        module = getattr(gf, package)
        found |= {f"gf.{package}.{name}": getattr(module, name) for name in module.__all__}
    kinds = (FunctionType, type) if classes else FunctionType
    return {name: item for name, item in found.items() if isinstance(item, kinds)}


def section(function: object, title: str) -> list[str] | None:
    """Lines of one section of a numpydoc docstring; None if it is not there."""
    lines = (inspect.getdoc(function) or "").split("\n")
    starts = [i for i in range(len(lines) - 1) if re.fullmatch(r"-{3,}", lines[i + 1])] + [len(lines)]
    for start, stop in itertools.pairwise(starts):
        if lines[start] == title:
            return lines[start + 2 : stop]
    return None


def code_blocks(text: str, language: str = r"\w*") -> list[str]:
    """Contents of the code blocks of a markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


each_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


def each_function(*packages: str):
    functions = public(*packages)
    return pytest.mark.parametrize("function", functions.values(), ids=functions.keys())


# --- import cost and layering ---------------------------------------------------------------------------------------


FRESH = """
import contextlib, io, json, sys
import scanpy

def loaded():
    return {"torch", "transformers"} & set(sys.modules)

before = loaded()  # anndata 0.11 loads torch by itself
import scgeneformer as gf
told = {"import": [*(loaded() - before)], "model": gf.settings.model}
gf.models.available()
told["available"] = [*(loaded() - before)]
from scgeneformer.cli import app
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    app(["--help"])
print(json.dumps(told | {"help": [*(loaded() - before)], "shown": shown.getvalue()}))
"""


@pytest.fixture(scope="module")
def fresh():
    """What a new process tells that has just imported the package, with a model named by its environment."""
    variables = os.environ | {"SCGENEFORMER_MODEL": "mini"}
    done = subprocess.run([sys.executable, "-c", FRESH], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("step", ["import", "available", "help"])
def test_neither_import_nor_list_of_models_nor_help_loads_torch_or_transformers(fresh, step):
    assert fresh[step] == []


def test_help_names_the_commands(fresh):
    assert all(command in fresh["shown"] for command in ("demo", "models", "download", "check", "tokenize", "embed"))


def test_variables_are_read_at_import(fresh):
    assert fresh["model"] == "mini"


@each_module
def test_modules_import_only_from_their_layers(path):
    names, inside = imports(ast.parse(path.read_text(encoding="utf-8"))), path.relative_to(PACKAGE).parts[0]
    face = [f"scgeneformer.{part}" for part in FACE]
    if inside in ("_engine", "_training"):
        outer = ("anndata", "scanpy", "scgeneformer._adata", "scgeneformer.datasets", "scgeneformer.cli", *face)
        assert offending(names, *outer, allowed=("scanpy.logging",)) == []
    elif inside in ("_adata", "models", "datasets"):
        assert offending(names, *face, "scgeneformer.cli") == []
    elif inside in FACE:
        others = [package for package in face if package != f"scgeneformer.{inside}"]
        assert offending(names, *others, "scgeneformer.cli") == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "_engine" / "statistics").glob("*.py")), ids=name_of)
def test_statistics_are_of_arrays_alone(path):
    names = imports(ast.parse(path.read_text(encoding="utf-8")))
    inside = {name for name in names if name.startswith("scgeneformer._engine.statistics.")}
    assert offending(names - inside, "torch", "transformers", "scgeneformer._engine") == []


@pytest.mark.parametrize("path", [p for p in MODULES if p.relative_to(PACKAGE).parts[0] in FACE], ids=name_of)
def test_face_touches_no_tensor(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert offending(imports(at_import(tree)), "torch", "transformers") == []


@each_module
def test_nothing_unpickles(path):
    assert offending(imports(ast.parse(path.read_text(encoding="utf-8"))), *UNSAFE) == []


@each_module
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("package", LISTS)
def test_init_lists_what_it_imports(package):
    name = f"scgeneformer.{package}".rstrip(".")
    tree = ast.parse((PACKAGE / package / "__init__.py").read_text(encoding="utf-8"))
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    ours = {a.asname or a.name for node in froms if node.module.startswith("scgeneformer") for a in node.names}
    assert sorted(importlib.import_module(name).__all__) == sorted(ours | assigned(tree))
    assert not [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def assigned(tree: ast.Module) -> set[str]:
    """Names assigned at the top of a module."""
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)} - {"__all__"}


# --- public functions -----------------------------------------------------------------------------------------------


@each_function(*FACE)
def test_signatures_keep_the_conventions(function):
    parameters = list(inspect.signature(function).parameters.values())
    assert parameters[0].name == "adata"
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    assert len(positional) <= MAX_POSITIONAL
    assert not [p.name for p in parameters if p.kind == p.VAR_POSITIONAL]
    assert not [p.name for p in parameters if p.default is p.empty and p.kind == p.KEYWORD_ONLY]


def named(*packages: str) -> dict[str, dict[str, object]]:
    """Default of every parameter that goes by its name alone, in order, by function."""
    signatures = {name: inspect.signature(function) for name, function in public(*packages).items()}
    return {
        name: {p.name: p.default for p in signature.parameters.values() if p.kind == p.KEYWORD_ONLY}
        for name, signature in signatures.items()
    }


def test_parameters_have_one_order():
    place = {}
    for name, parameters in named(*FACE, "models", "datasets").items():
        for pair in itertools.combinations(parameters, 2):
            assert pair[::-1] not in place, f"{pair} in {name}, the other way round in {place[pair[::-1]]}"
            place[pair] = name


def test_parameters_have_one_default():
    """Those of one name have one default, but for numbers and names that depend on what is done."""
    differing = {"key", "layer", "per_cell", "min_cells", "max_memory_gb", "fractions", "recipe", "groups"}
    differing |= {
        "n_folds",
        "n_genes",
        "n_neighbors",
        "method",
        "methods",
        "metric",
        "cmap",
        "model",
        "label",
        "use_rep",
    }
    defaults: dict[str, set[str]] = {}
    for parameters in named(*FACE, "models", "datasets").values():
        for name, default in parameters.items():
            defaults.setdefault(name, set()).add(repr(default))
    assert {name for name, found in defaults.items() if len(found) > 1} <= differing


@each_function(*FACE, "models", "datasets")
def test_docstrings_describe_every_parameter(function):
    doc = inspect.getdoc(function) or ""
    assert doc.split("\n\n")[0].endswith("."), "a docstring opens with a sentence"
    assert not re.search(r"^\s*\{\w+\}$", doc, flags=re.M), "a shared description was not put in"
    parameters = inspect.signature(function).parameters
    heads = [line for line in section(function, "Parameters") or [] if line and not line[0].isspace()]
    documented = [name.strip().lstrip("*") for head in heads for name in head.split(" : ")[0].split(",")]
    assert documented == list(parameters)
    if inspect.signature(function).return_annotation not in (None, "None"):
        assert section(function, "Returns")


WITH_EXAMPLES = public(*FACE, "models", "datasets", classes=True)


@pytest.fixture
def figures(monkeypatch):
    """Function that gives the numbers of the figures drawn so far; none is shown, and all are closed at the end."""
    import matplotlib.pyplot as plt

    plt.close("all")
    monkeypatch.setattr(plt, "show", lambda *_, **__: None)
    yield plt.get_fignums
    plt.close("all")


@pytest.mark.usefixtures("quick_umap")
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_doctests_of_public_functions_and_classes_run(name, tmp_path, monkeypatch, figures):
    """All have examples, and those of plots draw one figure."""
    monkeypatch.chdir(tmp_path)
    assert section(WITH_EXAMPLES[name], "Examples"), "the docstring has no Examples"
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(WITH_EXAMPLES[name]), {}, name, None, 0)
    said: list[str] = []
    with gf.settings.override(model="mini", progress=False):
        result = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert result.failed == 0, "".join(said)
    assert result.attempted > 0, "no line of the Examples starts with >>>"
    assert len(figures()) == name.startswith("gf.pl.")


# --- README and docs ------------------------------------------------------------------------------------------------

DOCS = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.is_file()]


@in_checkout
def test_readme_starts_with_the_two_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [block.strip() for block in code_blocks(readme)[:2]] == COMMANDS


@in_checkout
@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_docs_name_what_exists(path):
    """Every ``gf.a.b`` in code and text exists, and calls in code blocks use parameters that exist."""
    text = path.read_text(encoding="utf-8")
    for chain in set(re.findall(r"\bgf(?:\.\w+)+", text)):
        resolve(chain)
    nodes = [node for block in code_blocks(text, "python") for node in ast.walk(ast.parse(block))]
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        if (written := ast.unparse(call.func)).startswith("gf."):
            inspect.signature(resolve(written)).bind(*call.args, **{k.arg: k.value for k in call.keywords})


def resolve(chain: str) -> object:
    """What a dotted name that starts with gf stands for."""
    found: object = gf
    for part in chain.split(".")[1:]:
        assert hasattr(found, part), f"{chain} does not exist"
        found = getattr(found, part)
    return found


@in_checkout
@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_docs_give_commands_that_parse(path):
    from typer.main import get_command

    from scgeneformer.cli import app

    commands = get_command(app).commands
    for line in "".join(code_blocks(path.read_text(encoding="utf-8"), "bash")).splitlines():
        if line.startswith("scgeneformer "):
            name, *arguments = shlex.split(line, comments=True)[1:]
            commands[name].make_context(name, arguments).close()


@in_checkout
@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.fixture
def run_page(tmp_path, monkeypatch, figures):
    """Function that runs the python blocks of a page, one after the other, on few cells of each type."""
    monkeypatch.chdir(tmp_path)

    def run(path: Path) -> None:
        n = 12 if path.name in ("README.md", "differential-context.md") else 8  # those compare groups of cells
        cells = gf.datasets.pbmc68k()
        few = cells[cells.obs.groupby("cell_type", observed=True).cumcount() < n]  # all those of rare types
        monkeypatch.setattr(gf.datasets, "pbmc68k", few.copy)
        space: dict[str, object] = {}
        for block in code_blocks(path.read_text(encoding="utf-8"), "python"):
            exec(compile(block, path.name, "exec"), space)

    return run


@in_checkout
@pytest.mark.parametrize(
    "path", [p for p in DOCS if "```python" in p.read_text(encoding="utf-8")], ids=lambda p: p.name
)
@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")  # scanpy's use of matplotlib
@pytest.mark.usefixtures("quick_umap")
def test_examples_on_pages_run(path, run_page):
    run_page(path)


@in_checkout
@pytest.mark.long  # half a minute of compilation
@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")
def test_the_readme_runs_with_the_real_umap(run_page):
    run_page(ROOT / "README.md")

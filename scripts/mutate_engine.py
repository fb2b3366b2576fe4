"""Mutation testing: change the engine in small ways, one at a time, and see whether a test notices.

Prints the changes that no test noticed: each wants a test that states the fact it breaks, or makes no difference. No
file is changed: every change lives in a process of its own, which runs the tests of the changed module until one fails.
Kernels run as plain Python, so that nothing has to be compiled.

    OMP_NUM_THREADS=1 nice python scripts/mutate_engine.py ranking packing --most 40
"""

from __future__ import annotations

import argparse
import ast
import gc
import os
import signal
import sys
import tempfile
import time
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from random import Random
from types import FunctionType, ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = {  # module of the engine -> its tests, the quickest first
    "ranking": "engine/test_ranking.py engine/test_sequences.py",
    "packing": "engine/test_tokens.py engine/test_encoder.py engine/test_forward.py",
    "pooling": "engine/test_encoder.py engine/test_forward.py engine/test_two_time_points.py",
    "attention": "engine/test_encoder.py engine/test_dropout_attention.py",
    "embedding": "engine/test_forward.py engine/test_encoder.py tl/test_embed_cells.py",
    "gene_sums": "engine/test_gene_sums.py engine/test_two_time_points.py tl/test_embed_genes.py",
    "value_bins": "engine/test_value_bins.py",
    "two_time_points": "engine/test_two_time_points.py",
    "cost": "engine/test_cost.py",
    "genes": "adata/test_genes.py",
    "vocabulary": "engine/test_vocabulary.py engine/test_two_time_points.py",
    "pickled": "security/test_pickles.py engine/test_dictionaries.py",
    "perturbation.edits": "engine/test_edits.py",
    "perturbation.perturbed_cells": "engine/test_perturbed_cells.py tl/test_perturb.py",
    "perturbation.shifts": "tl/test_perturb.py",
    "statistics.perturbation_tests": "tl/test_rank_perturbations.py",
    "statistics.rank_tests": "engine/test_rank_tests.py engine/test_null_perturbations.py",
    "statistics.moments": "engine/test_pca.py",
}
PAIRS = ("Lt LtE", "Gt GtE", "Eq NotEq", "In NotIn", "Is IsNot", "And Or", "Add Sub", "Mult Div", "BitAnd BitOr")
OTHER = {getattr(ast, a): getattr(ast, b) for p in PAIRS for a, b in (p.split(), p.split()[::-1])}
OTHER |= {ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitXor: ast.BitAnd}
NAMES = {"min": "max", "minimum": "maximum", "argmin": "argmax", "zeros": "ones", "any": "all", "left": "right"}
NAMES |= {new: old for old, new in NAMES.items()}
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore:overflow:RuntimeWarning"]  # of hashes in plain Python
OPTIONS += ["-k", "not log_normalised"]  # by a kernel of scanpy, which does not run as plain Python


def nodes(node: ast.AST) -> list[ast.AST]:
    """What of a module may be changed, in the order of the source: no types, messages, errors, defaults of fields."""
    children: list[Any] = list(ast.iter_child_nodes(node))
    match node:
        case ast.Raise() | ast.JoinedStr() | ast.arg() | ast.Import() | ast.ImportFrom():
            return []
        case ast.If(test=ast.Name("TYPE_CHECKING")) | ast.Expr(ast.Call(ast.Attribute(ast.Name("logg")))):
            return []
        case ast.FunctionDef():
            children = [node.args, *node.body]
        case ast.ClassDef():
            children = [one for one in node.body if isinstance(one, ast.FunctionDef)]
        case ast.AnnAssign():
            children = [node.value] if node.value else []
    return [node, *(one for child in children for one in nodes(child))]


def changes(node: Any) -> list[tuple[str, Any]]:
    """Ways to change a node: a field and its new value."""
    match node:
        case ast.Compare(ops=ops):
            return [("ops", [*ops[:i], OTHER[type(op)](), *ops[i + 1 :]]) for i, op in enumerate(ops)]
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign() if type(node.op) in OTHER:
            return [("op", OTHER[type(node.op)]())]
        case ast.UnaryOp():  # twice is not at all
            return [("operand", ast.UnaryOp(node.op, node.operand))]
        case ast.Constant(value=bool()):
            return [("value", not node.value)]
        case ast.Constant(value=int() | float()):
            return [("value", node.value + 1), ("value", node.value - 1)]
        case ast.Constant(value=name) | ast.Name(id=name) | ast.Attribute(attr=name) if name in NAMES:
            return [(node._fields[1 if isinstance(node, ast.Attribute) else 0], NAMES[name])]
        case ast.Slice():  # one further; numbers are changed by themselves
            ends = [(side, end) for side in ("lower", "upper") if (end := getattr(node, side)) is not None]
            return [(s, ast.BinOp(e, ast.Add(), ast.Constant(1))) for s, e in ends if not isinstance(e, ast.Constant)]
    return []


def mutants(source: str) -> list[tuple[ast.Module, str]]:
    """Every change of a module: the changed module, and the line with what is changed in it."""
    found = []
    for place, choices in enumerate(map(changes, nodes(ast.parse(source)))):
        for field, value in choices:
            tree = ast.parse(source)
            here: Any = nodes(tree)[place]
            line = next(one.lineno for one in ast.walk(here) if hasattr(one, "lineno"))
            before = ast.unparse(here)
            setattr(here, field, value)
            text = f"{line}: {source.splitlines()[line - 1].strip()}    [{before}  ->  {ast.unparse(here)}]"
            found.append((ast.fix_missing_locations(tree), text))
    return found


def put(tree: ast.Module, module: ModuleType) -> None:
    """Give the functions of a module, wherever they are held, the code that they have in a changed tree."""

    def functions() -> dict[int, FunctionType]:
        every = {id(one): one for one in gc.get_objects() if isinstance(one, FunctionType)}
        return {key: one for key, one in every.items() if one.__code__.co_filename == module.__file__}

    def place(function: FunctionType) -> tuple[str, int]:
        return function.__code__.co_qualname, function.__code__.co_firstlineno  # lambdas share a name

    gc.unfreeze()  # which hides objects
    old, space, before = functions(), vars(module), dict(vars(module))
    exec(compile(tree, str(module.__file__), "exec"), space)
    new = {place(one): one for key, one in functions().items() if key not in old}
    for one in old.values():
        other = new.get(place(one), one)
        one.__code__, one.__defaults__, one.__kwdefaults__ = other.__code__, other.__defaults__, other.__kwdefaults__
    for name, value in before.items():
        if isinstance(value, dict) and value is not space[name]:  # a table that others hold, too
            value.clear()
            value.update(space[name])
        if isinstance(value, FunctionType | type | dict):
            space[name] = value


def survives(tree: ast.Module, module: ModuleType, tests: list[str], limit: float) -> bool:
    """Whether all tests pass with a module changed; what takes too long does not."""
    if not (child := os.fork()):
        os.setsid()
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        put(tree, module)
        os._exit(int(pytest.main([*OPTIONS, *tests])))
    end = time.monotonic() + limit
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.02)
    return ended[1] == 0


def main() -> None:
    """Try changes of the modules that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(TESTS), help=f"by default all of {', '.join(TESTS)}")
    parser.add_argument("--most", type=int, default=40, help="changes of a module that are tried, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    chosen = parser.parse_args()
    os.environ |= {"HYPOTHESIS_STORAGE_DIRECTORY": tempfile.mkdtemp(), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import_module("transformers.models.bert.modeling_bert")  # once, for all processes
    for name in chosen.modules:
        module, tests = import_module(f"scgeneformer._engine.{name}"), [f"tests/{one}" for one in TESTS[name].split()]
        with redirect_stdout(StringIO()):  # imports the tests, once for all processes
            pytest.main(["--collect-only", *OPTIONS, *tests])
        source, start = Path(str(module.__file__)).read_text("utf-8"), time.monotonic()
        if not survives(ast.parse(source), module, tests, 600):
            sys.exit(f"{name}: the tests fail without any change")
        limit, every = 10 + 5 * (time.monotonic() - start), mutants(source)
        some = Random(chosen.seed).sample(every, min(chosen.most, len(every)))
        left = [text for tree, text in some if survives(tree, module, tests, limit)]
        print(f"{name}: {len(some) - len(left)} of {len(some)} noticed ({len(every)} there are)", flush=True)
        print(*(f"    {text}\n" for text in sorted(left, key=lambda text: int(text.split(":")[0]))), sep="", end="")


if __name__ == "__main__":
    main()

"""The command line: read, call gf, write; errors are one line."""

from __future__ import annotations

import os
import subprocess
import sys

import anndata as ad
import h5py
import matplotlib.image
import numpy as np
import pytest
import scanpy as sc
from toys import make_counts
from typer.testing import CliRunner

import scgeneformer as gf
from scgeneformer._adata.disk import files
from scgeneformer._demo import neighbour_agreement, run
from scgeneformer.cli import app

READ = {".h5ad": ad.read_h5ad, ".zarr": ad.read_zarr}


@pytest.fixture(scope="module")
def names():
    """Symbols of 40 genes that every model knows."""
    return gf.datasets.pbmc68k().var_names[100:140]


@pytest.fixture
def cells(names):
    """Twelve cells of hand-made counts."""
    adata = ad.AnnData(make_counts())
    adata.var_names = names
    adata.obs_names = [f"cell{i}" for i in range(12)]
    adata.obs["donor"] = np.resize(["a", "b"], 12)
    adata.layers["counts"] = adata.X.copy()
    return adata


@pytest.fixture(params=[".h5ad", ".zarr"])
def path(request, cells, tmp_path):
    path = tmp_path / f"cells{request.param}"
    files.format_of(path).write(cells, path)
    return path


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fails(*arguments):
    """The one line on stderr of a command that ends with exit code 1."""
    result = call(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1, lines
    return lines[0]


def equal(found, expected):
    """Whether all results are those that gf.tl leaves in memory."""
    for key in ("X_geneformer", "X_geneformer_L0", "X_geneformer_L5", "geneformer_tokens"):
        assert (key in found.obsm) == (key in expected.obsm)
        if key in expected.obsm:
            np.testing.assert_array_equal(found.obsm[key], expected.obsm[key])
            assert found.obsm[key].dtype == expected.obsm[key].dtype
            assert found.uns[key]["params"].keys() == expected.uns[key]["params"].keys()
    np.testing.assert_array_equal(found.obs["geneformer_n_tokens"], expected.obs["geneformer_n_tokens"])
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_embed_writes_what_embed_cells_gives(path, cells, suffix, tmp_path):
    out = tmp_path / f"out{suffix}"
    result = call("embed", path, "--model", "mini", "--groupby", "donor", "--out", out)
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout
    gf.tl.embed_cells(cells, "mini", groupby="donor")
    found = READ[suffix](out)
    equal(found, cells)
    np.testing.assert_array_equal(found.uns["X_geneformer_donor"], cells.uns["X_geneformer_donor"])
    assert "X_geneformer" not in READ[path.suffix](path).obsm


def test_embed_in_place_with_several_negative_layers(path, cells):
    result = call("embed", path, "-m", "mini", "--layer", "-2", "--layer", "0,-2", "--in-place")
    assert result.exit_code == 0, result.output
    gf.tl.embed_cells(cells, "mini", layer=[-2, 0])
    equal(READ[path.suffix](path), cells)
    assert os.listdir(path.parent) == [path.name]


def test_embed_passes_its_options_on(path, cells, monkeypatch):
    seen = {}
    monkeypatch.setattr(gf.tl, "embed_cells", lambda adata, model, **options: seen.update(options, model=model))
    words = "--layer -1 --pooling cls --groupby donor --groupby b --agg median --counts-layer counts --use-raw"
    more = "--gene-ids id --device cpu --dtype bfloat16 --tokens-per-batch 64 --key-added X_own --model m --in-place"
    more += " --previous-layer before"
    assert call("embed", path, *words.split(), *more.split()).exit_code == 0
    assert seen == {
        "layer": [-1],
        "out": path.parent / f"{path.name}.parts",
        "pooling": "cls",
        "groupby": ["donor", "b"],
        "agg": "median",
        "counts_layer": "counts",
        "use_raw": True,
        "gene_ids": "id",
        "previous_layer": "before",
        "device": "cpu",
        "dtype": "bfloat16",
        "tokens_per_batch": 64,
        "key_added": "X_own",
        "model": "m",
    }


def test_embed_says_first_how_long_it_takes(path, capsys):
    sc.settings.logfile = sys.stderr  # of capsys
    call("embed", path, "-m", "mini", "--device", "cpu", "--in-place")
    assert "12 cells with mini on cpu in float32 take about" in capsys.readouterr().err


def test_tokenize_writes_what_tokenize_gives(path, cells, tmp_path):
    out = tmp_path / f"out{path.suffix}"
    result = call("tokenize", path, "-m", "mini", "--counts-layer", "counts", "-o", out)
    assert result.exit_code == 0, result.output
    gf.tl.tokenize(cells, "mini", counts_layer="counts")
    equal(READ[path.suffix](out), cells)


def test_check_prints_the_report_and_tells_by_its_exit_code(path, cells, tmp_path):
    result = call("check", path, "--model", "mini")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(gf.pp.check(cells, "mini"))
    cells.X = -cells.X
    cells.write_h5ad(tmp_path / "negative.h5ad")
    result = call("check", tmp_path / "negative.h5ad", "--model", "mini")
    assert result.exit_code == 1
    assert "counts_layer='counts'" in result.stdout


def test_models_are_listed_and_fetched():
    result = call("models")
    assert result.exit_code == 0
    assert {line.split()[0] for line in result.stdout.splitlines()} >= set(gf.models.available().index)
    result = call("download", "mini")
    assert result.exit_code == 0
    assert os.path.isdir(result.stdout.strip())


def test_errors_are_one_line(path, tmp_path):
    new = tmp_path / f"new{path.suffix}"
    assert "There is no file" in fails("embed", tmp_path / "none.h5ad", "-m", "mini", "--out", new)
    assert "There is no file" in fails("check", tmp_path / "none.h5ad", "-m", "mini")
    assert "suffix must be .h5ad or .zarr" in fails("embed", tmp_path / "cells.csv", "-m", "mini", "--out", new)
    assert "suffix must be .h5ad or .zarr" in fails("tokenize", path, "-m", "mini", "--out", tmp_path / "new.csv")
    assert "--overwrite" in fails("embed", path, "-m", "mini", "--out", path)
    assert "There is no model 'none'" in fails("embed", path, "-m", "none", "--out", new)
    assert "adata.layers['none'] does not exist" in fails(
        "embed", path, "-m", "mini", "--counts-layer", "none", "--out", new
    )
    assert "--pooling 'max' does not exist" in fails("embed", path, "-m", "mini", "--pooling", "max", "--out", new)
    assert os.listdir(tmp_path) == [path.name]


def test_a_read_only_file_is_refused_before_the_work(cells, tmp_path):
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    path.chmod(0o444)
    assert "read-only" in fails("embed", path, "-m", "mini", "--in-place")


def test_a_failure_leaves_the_old_file(path, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(files, "_change", fail)
    parts = tmp_path / f"{path.name}.parts"
    told = f"What was finished is kept in {parts}; the same command with --resume goes on from there."
    words = ("tokenize", path, "-m", "mini", "--in-place")
    assert fails(*words) == f"Error: No space left on device. {told}"
    assert "geneformer_tokens" not in READ[path.suffix](path).obsm
    assert sorted(os.listdir(tmp_path)) == [path.name, parts.name]
    monkeypatch.undo()
    told = "holds what a command that was stopped had finished. Go on with it: --resume; to begin anew, remove it."
    assert fails(*words) == f"Error: {parts} {told}"
    assert call(*words, "--resume").exit_code == 0
    assert "geneformer_tokens" in READ[path.suffix](path).obsm
    assert os.listdir(tmp_path) == [path.name]


def test_overwrite_replaces_the_other_file(path, cells, tmp_path):
    out = tmp_path / "out.h5ad"
    out.write_text("something else")
    assert call("tokenize", path, "-m", "mini", "--out", out, "--overwrite").exit_code == 0
    assert "geneformer_tokens" in ad.read_h5ad(out).obsm


@pytest.mark.parametrize("place", [("--out", "new.h5ad", "--in-place"), ()])
def test_where_the_results_go_must_be_said_once(path, place):
    result = call("embed", path, "-m", "mini", *place)
    assert result.exit_code == 2
    said = " ".join(result.stderr.replace("│", " ").split())
    assert "Say where the results go: either --out NEWFILE or --in-place." in said


def test_layers_must_be_numbers(path):
    assert call("embed", path, "-m", "mini", "--layer", "last", "--in-place").exit_code == 2


@pytest.mark.parametrize("words", [("--debug", "check"), ("check", "--debug")])
def test_debug_shows_where_an_error_arose(words, tmp_path):
    result = call(*words, tmp_path / "none.h5ad", "-m", "mini")
    assert isinstance(result.exception, FileNotFoundError)


def test_python_m_scgeneformer_is_the_command(cells, tmp_path):
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)

    command = [sys.executable, "-m", "scgeneformer", "tokenize", path, "--model", "mini", "--in-place"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"Tokens are in {path}\n"), done.stderr
    assert "finished" in done.stderr


def test_version_is_that_of_the_package():
    assert call("--version").stdout.strip() == gf.__version__


def test_neighbour_agreement_by_hand():
    points = np.array([[0.0], [1.0], [2.1], [10.0]])
    labels = np.array(["a", "a", "b", "b"])
    assert neighbour_agreement(points, labels, 1) == 3 / 4  # nearest: 1, 0, 1, 2, so yes, yes, no, yes
    assert neighbour_agreement(points, labels, 3) == 1 / 3


@pytest.mark.usefixtures("quick_umap")
def test_the_demo_writes_what_it_says(tmp_path):
    summary = run(tmp_path)
    assert matplotlib.image.imread(tmp_path / "figures" / "demo_umap.png").shape[:2] == (1350, 2100)
    adata = ad.read_h5ad(tmp_path / "demo.h5ad")
    tokens = adata.obs["geneformer_n_tokens"]
    known = adata.var["geneformer_token"] >= 0
    counts = np.expm1(adata.X.toarray().astype(np.float64))
    assert (summary.cells, summary.genes) == adata.shape == (700, 765)
    assert summary.genes_matched == known.sum()
    assert summary.share_of_counts == pytest.approx(counts[:, known].sum() / counts.sum())
    assert (summary.tokens_median, summary.tokens_total) == (tokens.median(), tokens.sum())
    assert (adata.obsm["geneformer_tokens"] != 0).sum() == summary.tokens_total
    assert summary.clusters == adata.obs["leiden_geneformer"].nunique() > 1
    labels = adata.obs["cell_type"].to_numpy()
    assert summary.agreement_model == pytest.approx(neighbour_agreement(adata.obsm["X_geneformer"], labels))
    assert adata.obsm["X_pca"].shape[1] == 50
    assert summary.agreement_pca == pytest.approx(neighbour_agreement(adata.obsm["X_pca"], labels))
    assert 0.15 < summary.agreement_chance < 0.25 < summary.agreement_model
    np.testing.assert_array_equal(adata.obsm["X_umap"], gf.datasets.pbmc68k().obsm["X_umap"])
    assert adata.uns["geneformer_demo"]["tokens_total"] == summary.tokens_total
    assert "demonstration model" in str(summary)
    with h5py.File(tmp_path / "demo.h5ad") as root:
        assert root["obsm/X_umap_geneformer"].shape == (700, 2)


@pytest.mark.parametrize("agg", ["mean", "median"])
def test_genes_writes_what_embed_genes_gives(path, cells, agg, tmp_path):
    suffix = ".zarr" if agg == "mean" else ".h5ad"
    out, named = tmp_path / f"out{suffix}", ["--genes", cells.var_names[0], "-g", cells.var_names[2]]
    words = ["--layer", "-1,0", "--groupby", "donor", "--agg", agg, "--min-cells", 2, "--sample", 10]
    result = call("embed-genes", path, "-m", "mini", *named, *words, "--out", out)
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout
    asked = {"layer": [-1, 0], "groupby": "donor", "agg": agg, "min_cells": 2, "sample": 10}
    gf.tl.embed_genes(cells, "mini", genes=[cells.var_names[0], cells.var_names[2]], **asked)
    found = READ[suffix](out)
    assert found.varm.keys() == cells.varm.keys()
    for key, values in cells.varm.items():
        np.testing.assert_allclose(found.varm[key], values, atol=1e-6)
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, out.name])


def test_medians_cannot_be_resumed(path, tmp_path):
    out = tmp_path / "out.h5ad"
    words = ("embed-genes", path, "-m", "mini", "--agg", "median", "--resume", "--out", out)
    assert "keeps sums over cells, and --agg 'median' needs every cell" in fails(*words)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_perturb_writes_what_perturb_gives(path, cells, suffix, tmp_path):
    out, (a, b) = tmp_path / f"out{suffix}", cells.var_names[:2]
    words = ["--genes", a, "-g", b, "-g", f"{a}+{b}", "--positions", "both"]
    result = call("perturb", path, "--model", "mini", *words, "--out", out)
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout
    gf.tl.perturb(cells, [a, b, (a, b)], model="mini", positions="both")
    found = READ[suffix](out)
    for key in ("geneformer_delete", "geneformer_delete_hold", "geneformer_delete_rank"):
        np.testing.assert_array_equal(found.layers[key].toarray(), cells.layers[key].toarray())
    np.testing.assert_array_equal(found.obsm["geneformer_delete"], cells.obsm["geneformer_delete"])


def test_pretrain_begins_from_scratch_and_goes_on(path, cells, tmp_path):
    files.format_of(path).write(cells, other := tmp_path / f"other{path.suffix}")
    small = ["--set", 'config={"hidden_size": 16, "num_hidden_layers": 1}', "--set", "epochs=1", "--seed", 1]
    result = call("pretrain", path, other, *small, "--split-by", "donor", "--out", tmp_path / "model")
    assert result.exit_code == 0, result.output
    assert "validation: loss " in result.stdout
    assert f"The model is in {tmp_path / 'model'}" in result.stdout
    assert gf.models.load(tmp_path / "model").width == 16
    on = ("--model", tmp_path / "model", "--set", "epochs=1", "--set", "learning_rate=1e-4", "--out", tmp_path / "on")
    result = call("pretrain", path, *on)
    assert result.exit_code == 0, result.output
    assert "is not empty" in fails("pretrain", path, *on)


def test_train_writes_what_classify_reads(path, cells, tmp_path):
    cells.obs["cell_type"] = np.resize(["a", "b"], 12)
    files.format_of(path).write(cells, path)
    out, told = tmp_path / "annotator", tmp_path / f"told{path.suffix}"
    words = ["--model", "mini", "--label", "cell_type", "--set", "epochs=1", "--set", "schedule=constant"]
    result = call("train", path, *words, "--split-by", "donor", "--out", out)
    assert result.exit_code == 1  # two donors cannot be three parts
    result = call("train", path, *words, "--out", out)
    assert result.exit_code == 0, result.output
    assert "cell_type, test: accuracy" in result.stdout
    result = call("classify", path, out, "--truth", "cell_type", "--out", told)
    assert result.exit_code == 0, result.output
    found = READ[path.suffix](told)
    gf.tl.classify(cells, out)
    np.testing.assert_allclose(
        found.obsm["geneformer_cell_type_probability"], cells.obsm["geneformer_cell_type_probability"], atol=1e-6
    )
    assert found.obs["geneformer_cell_type"].tolist() == cells.obs["geneformer_cell_type"].tolist()
    assert (
        "is not of the form NAME=VALUE" in call("train", path, "--label", "x", "--out", out, "--set", "epochs").stderr
    )


@pytest.mark.parametrize(
    ("command", "words", "name"),
    [
        ("train", ["--label", "cell_type"], "seed"),
        ("train", ["--label", "cell_type"], "adata"),
        ("train", ["--label", "cell_type"], "fractions"),
        ("train", ["--label", "cell_type"], "arguments"),
        ("train", ["--label", "cell_type"], "learning_rat"),
        ("pretrain", [], "vocabulary"),
    ],
)
def test_set_takes_settings_alone(path, tmp_path, command, words, name):
    result = call(command, path, *words, "--model", "mini", "--out", tmp_path / "out", "--set", f"{name}=3")
    assert result.exit_code == 2
    told = " ".join(result.stderr.replace("│", " ").split())
    hint = "Did you mean 'learning_rate'? " if name == "learning_rat" else ""
    assert f"--set {name}=...: {name} is no setting of the recipe. {hint}What else can be chosen has an option" in told
    assert not (tmp_path / "out").exists()

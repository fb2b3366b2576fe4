"""`save=` of scanpy's plots saves all that is drawn, under the name scanpy gives it."""

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from perturbed import make_perturbed

import scgeneformer as gf

mpl.use("Agg")


@pytest.fixture
def adata():
    adata = make_perturbed(60)
    rng = np.random.default_rng(0)
    adata.obsm["X_umap"] = rng.normal(size=(60, 2))
    adata.obsm["X_geneformer"] = rng.normal(size=(60, 8))
    adata.varm["geneformer"] = rng.normal(size=(adata.n_vars, 6)).astype(np.float32)
    adata.var["kind"] = np.resize(["x", "y"], adata.n_vars)
    return adata


@pytest.fixture
def saved(monkeypatch, tmp_path):
    """Name of each figure that is saved, its arrows and the texts beside its points."""
    found, save = [], Figure.savefig

    def note(figure, path, **options):
        arrows = [one for ax in figure.axes for one in ax.collections if isinstance(one, Quiver)]
        found.append((path.name, len(arrows), [text.get_text() for ax in figure.axes for text in ax.texts]))
        save(figure, path, **options)

    before = sc.settings.figdir, sc.settings.file_format_figs, sc.settings.autosave
    sc.settings.figdir = tmp_path / "figures"
    monkeypatch.setattr(Figure, "savefig", note)
    yield found
    sc.settings.figdir, sc.settings.file_format_figs, sc.settings.autosave = before
    plt.close("all")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {name for name, *_ in found}


@pytest.fixture(autouse=True)
def _no_umap(monkeypatch):
    """Points in place of a UMAP, whose first one takes long."""

    def place(adata, known, vectors, columns, *rest):
        return ad.AnnData(vectors, obs=adata.var.iloc[known][columns], obsm={"X_umap": vectors[:, :2]})

    monkeypatch.setattr("scgeneformer.pl._gene_embedding._umap", place)


def arrows(adata, **options):
    return gf.pl.perturbation_arrows(adata, "G0", **options)


def names(adata, **options):
    return gf.pl.gene_embedding(adata, genes=["G1", "G5"], **options)


@pytest.mark.parametrize(
    ("plot", "drawn"), [(arrows, (1, [])), (names, (0, ["G1", "G5"]))], ids=["perturbation_arrows", "gene_embedding"]
)
def test_what_is_saved_is_what_is_drawn(adata, saved, plot, drawn):
    sc.settings.file_format_figs = "pdf"
    plot(adata, save="_mine.png", show=False)
    plot(adata, save=True, show=False)
    plot(adata, save=".v2", show=False)
    assert not plt.get_fignums()
    sc.settings.autosave = True
    plot(adata, show=False, save=False)
    figure = plot(adata, save="_svg.svg", return_fig=True)
    assert figure.number in plt.get_fignums()
    plot(adata, show=False)
    expected = ["umap_mine.png", "umap.pdf", "umap.v2.pdf", "umap_svg.svg", "umap.pdf"]
    assert [name for name, *_ in saved] == expected
    for _, n_arrows, texts in saved:
        assert (n_arrows, sorted(texts)) == drawn


def test_several_panels_are_saved_together(adata, saved):
    adata.var["other"] = adata.var["kind"]
    axes = names(adata, color=["kind", "other"], save="_two.png", show=False)
    assert len(axes) == 2
    ((name, _, texts),) = saved
    assert (name, sorted(texts)) == ("umap_two.png", ["G1", "G1", "G5", "G5"])

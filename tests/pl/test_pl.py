import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from toys import make_model

import scgeneformer as gf

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def done(adata, toy):
    gf.tl.tokenize(adata, toy)
    gf.tl.embed_cells(adata, toy)
    adata.obsm["X_umap"] = adata.obsm["X_geneformer"][:, :2]
    return adata


PLOTS = {"umap": gf.pl.umap, "embedding": gf.pl.embedding, "tokens": gf.pl.tokens}


@pytest.mark.parametrize("plot", PLOTS)
def test_show_ax_and_return_fig_mean_what_they_mean_in_scanpy(done, plot):
    assert isinstance(PLOTS[plot](done, show=False), Axes)
    assert isinstance(PLOTS[plot](done, return_fig=True), Figure)
    _, ax = plt.subplots()
    PLOTS[plot](done, ax=ax, show=False)
    assert ax.has_data()


def test_scatter_plots_pass_everything_on_to_scanpy(done):
    ax = gf.pl.umap(done, color="cell_type", title="mine", show=False)
    assert ax.get_title() == "mine"
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"T cell", "CD4+/CD25 T Reg", "B"}
    ax = gf.pl.embedding(done, components="2,3", show=False)
    np.testing.assert_allclose(ax.collections[0].get_offsets(), done.obsm["X_geneformer"][:, 1:3])


def test_no_cells_are_refused(done):
    none = done[:0].copy()
    for plot in PLOTS.values():
        with pytest.raises(gf.DataError, match="adata has no cells"):
            plot(none)


@pytest.mark.parametrize("plot", [gf.pl.umap, gf.pl.embedding])
def test_a_color_that_does_not_exist_is_named_with_the_nearest(done, plot):
    text = (
        r"'celltype' is neither a column of adata\.obs nor a gene\. Did you mean 'cell_type'\? The columns are: 'cell"
    )
    with pytest.raises(gf.DataError, match=text):
        plot(done, color=["donor", "celltype"])
    with pytest.raises(gf.DataError, match="color='nope' is neither"):
        plot(done, color="nope")


def test_colors_are_columns_and_genes_of_adata_or_raw(done):
    cells = done.copy()
    cells.raw = cells
    cells = cells[:, 1:].copy()
    cells.var["symbol"] = [f"S{i}" for i in range(39)]
    for color in ("cell_type", "G3", "G0", [None, "G3"]):
        assert gf.pl.umap(cells, color=color, show=False) is not None
    assert gf.pl.umap(cells, color="S3", gene_symbols="symbol", use_raw=False, show=False) is not None


def test_a_missing_basis_is_named_with_what_to_run(adata):
    with pytest.raises(gf.DataError, match=r"sc\.tl\.umap"):
        gf.pl.umap(adata)
    with pytest.raises(gf.DataError, match=r"obsm\['X_geneformer'\] does not exist; the keys are: none.*embed_cells"):
        gf.pl.embedding(adata)
    with pytest.raises(gf.DataError, match=r"gf\.tl\.tokenize"):
        gf.pl.tokens(adata)


def test_the_histogram_counts_every_cell_and_marks_those_cut_off(done):
    n_genes, limit = done.obs["geneformer_n_genes"], 16
    ax = gf.pl.tokens(done, show=False)
    heights = [sum(bar.get_height() for bar in container) for container in ax.containers]
    assert heights == [(n_genes <= limit).sum(), (n_genes > limit).sum()]
    assert f"{(n_genes > limit).mean():.0%} of 12 cells exceed the 16 genes" in ax.get_title("left")
    assert ax.lines[0].get_xdata()[0] == limit


@pytest.mark.parametrize(
    ("over", "said"), [(0, "None of 200 cells exceeds"), (1, "1 of 200 cells exceeds"), (3, "2% of 200 cells exceed")]
)
def test_few_cells_that_are_cut_off_are_not_called_none(over, said):
    adata = AnnData(np.ones((200, 1), dtype=np.float32))
    adata.uns["geneformer_tokens"] = {"max_genes": 16}
    adata.obs["geneformer_n_genes"] = np.repeat([17, 16], [over, 200 - over])
    assert f"{said} the 16 genes that fit" in gf.pl.tokens(adata, show=False).get_title("left")


def test_special_tokens_take_room_from_the_genes(adata):
    gf.tl.tokenize(adata, make_model(special=True))
    assert "the 14 genes that fit" in gf.pl.tokens(adata, show=False).get_title("left")


def test_groups_get_a_row_each(done):
    ax, n = gf.pl.tokens(done, groupby="cell_type", show=False), done.obs["cell_type"].value_counts()
    rows = [f"{name}  ({n[name]})" for name in ("B", "CD4+/CD25 T Reg", "T cell")]
    assert [label.get_text() for label in ax.get_yticklabels()] == rows

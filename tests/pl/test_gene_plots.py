import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata.tests.helpers import assert_equal
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from toys import make_adata, make_model

import scgeneformer as gf
from scgeneformer._adata.gene_context_frame import context_frame

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def computed():
    adata = make_adata(48)
    with gf.settings.override(progress=False):
        gf.tl.rank_genes_context(adata, "cell_type", model=make_model(), n_replicates=3, min_cells=2)
    rng = np.random.default_rng(0)
    adata.varm["geneformer"] = rng.normal(size=(40, 6)).astype(np.float32)
    adata.varm["geneformer"][3] = np.nan
    adata.varm["geneformer_cell_type"] = rng.normal(size=(40, 2, 6)).astype(np.float32)
    adata.uns["geneformer_cell_type"] = {"groups": np.array(["B", "T"], dtype=object)}
    adata.var["kind"] = np.resize(["x", "y"], 40)
    adata.var["level"] = np.arange(40.0)
    return adata


@pytest.fixture
def done(computed):
    before = computed.copy()
    yield computed
    assert_equal(computed, before)


pytestmark = pytest.mark.usefixtures("quick_umap")
PLOTS = {"gene_embedding": gf.pl.gene_embedding, "gene_context": gf.pl.gene_context}


@pytest.mark.parametrize("plot", PLOTS)
def test_show_ax_and_return_fig_mean_what_they_mean_in_scanpy(done, plot, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda *_, **__: shown.append(1))
    assert isinstance(PLOTS[plot](done, show=False), Axes)
    assert isinstance(PLOTS[plot](done, return_fig=True), Figure)
    _, ax = plt.subplots()
    PLOTS[plot](done, ax=ax, show=False)
    assert ax.has_data()
    assert not shown
    assert PLOTS[plot](done, show=True) is None
    assert shown


def test_the_umap_has_a_point_per_gene_and_the_names_asked_for(done):
    ax = gf.pl.gene_embedding(done, genes=["G0", "G5", "G9"], show=False)
    assert len(ax.collections[0].get_offsets()) == 39
    assert {text.get_text() for text in ax.texts} == {"G0", "G5", "G9"}
    rings = ax.collections[-1].get_offsets()
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(rings, points[[0, 4, 8]], rtol=1e-5)
    assert ax.get_title() == "Contextual embeddings of 39 genes"


def test_names_that_are_missing_are_listed_and_the_others_drawn(done, log):
    ax = gf.pl.gene_embedding(done, genes=["nope", "g5", "G3"], show=False)
    assert [text.get_text() for text in ax.texts] == ["G5"]
    assert "2 of 3 genes are left out" in log()


def test_the_umap_follows_the_seed_and_the_group(done):
    def points(**options):
        return gf.pl.gene_embedding(done, show=False, **options).collections[0].get_offsets()

    np.testing.assert_array_equal(points(seed=1), points(seed=1))
    assert not np.allclose(points(seed=1), points(seed=2))
    assert len(points(key="geneformer_cell_type", group="T")) == 40


def test_colors_and_everything_else_go_to_scanpy(done):
    ax = gf.pl.gene_embedding(done, color="kind", title="mine", size=3, show=False)
    assert ax.get_title() == "mine"
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"x", "y"}
    assert [a.get_title() for a in gf.pl.gene_embedding(done, color=["kind", "level"], show=False)] == ["kind", "level"]


def test_labels_never_overlap_on_their_side():
    from scgeneformer.pl._labels import spread

    ys = spread(np.array([0.0, 0.0, 0.1, 5.0]), 1.0)
    assert np.diff(ys).min() >= 1 - 1e-9
    assert ys[3] == 5
    assert ys[:3].mean() == pytest.approx(0.1 / 3)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"key": "nope"}, "does not exist"),
        ({"color": "nope"}, "the columns are: 'ensembl_id', 'kind', 'level'"),
        ({"genes": ["nope", "G3"]}, "None of the genes can be used"),
        ({"key": "geneformer_cell_type"}, r"of which one is meant: group="),
        ({"n_neighbors": 1}, "n_neighbors=1"),
        ({"seed": -1}, "seed=-1"),
    ],
    ids=str,
)
def test_a_bad_parameter_of_the_umap_is_refused(done, bad, text):
    with pytest.raises(gf.DataError, match=text):
        gf.pl.gene_embedding(done, **bad)


def test_too_few_genes_for_a_umap_are_refused(done):
    with pytest.raises(gf.DataError, match="3 genes have an embedding"):
        gf.pl.gene_embedding(done[:, :4].copy())


def test_the_heat_map_shows_the_stored_effects_and_marks_the_significant(done):
    ax = gf.pl.gene_context(done, n_genes=7, fdr=0.5, show=False)
    table = context_frame(done, None, "rank_genes_context").dropna()
    genes = [label.get_text() for label in ax.get_yticklabels()]
    groups = [label.get_text() for label in ax.get_xticklabels()]
    assert len(genes) == 7
    assert groups == table["group"].unique().tolist()
    shown = ax.images[0].get_array()
    effect = table.pivot(index="names", columns="group", values="effect").loc[genes, groups]
    np.testing.assert_allclose(shown.filled(np.nan), effect, equal_nan=True)
    adjusted = table.pivot(index="names", columns="group", values="pvals_adj").loc[genes, groups]
    dots = {(int(y), int(x)) for x, y in ax.collections[0].get_offsets()}
    assert dots == set(zip(*map(np.ndarray.tolist, np.nonzero(adjusted.to_numpy() < 0.5)), strict=True))
    first = {one["names"].iloc[0] for _, one in table.groupby("group")}
    assert first <= set(genes)
    assert "against rest" in ax.get_xlabel()
    assert "FDR < 0.5" in ax.get_xlabel()


def test_the_heat_map_of_one_group_and_bad_input(done):
    ax = gf.pl.gene_context(done, groups="B", n_genes=3, show=False)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["B"]
    refused = [
        ({"groups": "nope"}, "group='nope' does not exist"),
        ({"key": "x"}, "Run gf.tl"),
        ({"n_genes": 0}, "least 1"),
    ]
    refused += [({"fdr": bad}, f"fdr={bad!r} must be a number above 0 and at most 1") for bad in ("a", 0, 1.5, None)]
    for bad, text in refused:
        with pytest.raises(gf.DataError, match=text):
            gf.pl.gene_context(done, **bad)

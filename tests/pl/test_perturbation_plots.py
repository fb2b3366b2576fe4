import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata.tests.helpers import assert_equal
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from perturbed import KEY, make_perturbed

import scgeneformer as gf

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def computed():
    def shifts(ranks, rng):
        found = rng.gamma(2, 0.02, ranks.shape) / (1 + ranks / 10)
        found[:, 7] *= 3
        found[:, 11] /= 4
        return found

    adata = make_perturbed(120, shifts=shifts)
    gf.tl.rank_perturbations(adata)
    gf.tl.rank_perturbations(adata, groupby="cell_type", key_added="groups")
    gf.tl.rank_perturbations(adata, test="mixture", key_added="mixture")
    gf.tl.rank_perturbations(adata, test="goal", key_added="goal")
    rng = np.random.default_rng(0)
    adata.obsm["X_umap"] = rng.normal(size=(120, 2))
    adata.obsm["X_geneformer"] = np.concatenate([adata.obsm["X_umap"], np.zeros((120, 6))], axis=1)
    adata.obsm[f"{KEY}_vectors"] = np.zeros((120, 2, 8), dtype=np.float32)
    adata.obsm[f"{KEY}_vectors"][:, 0, 0] = 0.01  # to the right
    adata.obsm[f"{KEY}_vectors"][:3, 0] = np.nan
    return adata


@pytest.fixture
def done(computed):
    before = computed.copy()
    yield computed
    assert_equal(computed, before)


def test_the_only_perturbation_needs_no_key(done):
    adata = done.copy()
    for slot in (adata.layers, adata.obsm, adata.varm, adata.uns):
        for name in [name for name in slot if name.startswith(KEY)]:
            slot[name.replace("delete", "inhibit")] = slot.pop(name)
    adata.uns["geneformer_inhibit"]["params"]["mode"] = "inhibit"
    assert gf.pl.perturbation_arrows(adata, "G0", show=False).get_title().startswith("In-silico inhibition of G0")
    assert "inhibition of G0" in gf.pl.perturbation_effects(adata, "G0", show=False).get_title(loc="left")
    gf.tl.rank_perturbations(adata)
    assert adata.uns["rank_perturbations"]["params"]["key"] == "geneformer_inhibit"


PLOTS = {
    "ranking": lambda adata, **o: gf.pl.perturbation(adata, **o),
    "volcano": lambda adata, **o: gf.pl.perturbation(adata, kind="volcano", **o),
    "heatmap": lambda adata, **o: gf.pl.perturbation(adata, kind="heatmap", **o),
    "arrows": lambda adata, **o: gf.pl.perturbation_arrows(adata, "G0", **o),
    "effects": lambda adata, **o: gf.pl.perturbation_effects(adata, "G0", **o),
}


@pytest.mark.parametrize("plot", PLOTS)
def test_show_ax_and_return_fig_mean_what_they_mean_in_scanpy(done, plot, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda *_, **__: shown.append(1))
    assert isinstance(PLOTS[plot](done, show=False), Axes)
    assert isinstance(PLOTS[plot](done, return_fig=True), Figure)
    _, ax = plt.subplots()
    assert PLOTS[plot](done, ax=ax) is ax
    assert ax.has_data()
    assert not shown
    assert PLOTS[plot](done, show=True) is None
    assert shown


def labels(ax, axis="y"):
    return [label.get_text() for label in getattr(ax, f"get_{axis}ticklabels")()]


def test_the_ranking_shows_the_first_genes_by_effect(done):
    ax = gf.pl.perturbation(done, n_genes=6, show=False)
    table = gf.get.rank_perturbations_df(done).head(6).sort_values("effect", ascending=False)
    assert labels(ax) == table["names"].tolist()
    assert labels(ax)[0] == "G7"
    dots = max(ax.collections, key=lambda c: len(c.get_offsets()) if hasattr(c, "get_offsets") else 0)
    np.testing.assert_allclose(dots.get_offsets()[:, 0], table["effect"])
    assert ax.get_xlabel() == "shift beyond that of genes of the same rank"
    assert ax.get_title(loc="left") == "In-silico deletion"
    assert any("Spearman of effect and rank" in text.get_text() for text in ax.texts)
    assert labels(gf.pl.perturbation(done, genes=["G3", "G7"], show=False)) == ["G7", "G3"]
    assert "shift towards nf" in gf.pl.perturbation(done, key="goal", show=False).get_xlabel()
    assert len(labels(gf.pl.perturbation(done, key="mixture", n_genes=4, show=False))) == 4


def test_genes_that_are_not_significant_are_hollow(done):
    ax = gf.pl.perturbation(done, n_genes=8, fdr=0.05, show=False)
    hollow = (gf.get.rank_perturbations_df(done).head(8)["pvals_adj"] >= 0.05).sum()
    white = [c for c in ax.collections if len(c.get_facecolor()) and np.allclose(c.get_facecolor()[0], 1)]
    assert len(white[0].get_offsets()) == hollow > 0
    assert any("hollow" in text.get_text() for text in ax.texts)


def test_colors_of_significance_begin_pale_and_need_something_significant(done):
    ax = gf.pl.perturbation(done, n_genes=8, show=False)
    assert len(ax.figure.axes) == 2
    smallest = gf.get.rank_perturbations_df(done)["pvals_adj"].min()
    dots = next(c for c in ax.collections if c.get_array() is not None)
    assert dots.get_clim() == (0, max(-np.log10(smallest), 5))
    ax = gf.pl.perturbation(done, n_genes=8, fdr=1e-300, show=False)
    assert ax.figure.axes == [ax]
    assert len(ax.collections[-1].get_offsets()) == 8
    assert any("hollow: FDR ≥ 1e-300" in text.get_text() for text in ax.texts)


def test_the_volcano_shows_all_genes_and_names_the_significant(done):
    ax = gf.pl.perturbation(done, kind="volcano", n_genes=2, show=False)
    table = gf.get.rank_perturbations_df(done).dropna(subset="pvals")
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], table["effect"])
    np.testing.assert_allclose(points[:, 1], -np.log10(table["pvals_adj"]))
    named = {text.get_text() for text in ax.texts}
    assert {"G7", "G11"} <= named
    assert "G3" not in named
    assert any("1 up and 1 down of 30" in text for text in named)
    ax = gf.pl.perturbation(done, kind="volcano", genes="G3", show=False)
    assert "G3" in {text.get_text() for text in ax.texts}


def test_a_p_value_of_zero_stays_in_the_volcano(done):
    from scgeneformer.pl._perturbation_kinds import _log

    found = _log(gf.get.rank_perturbations_df(done)["pvals_adj"] * np.repeat([0, 1], [2, 28]))
    assert np.isfinite(found).all()
    assert (found[:2] > found[2:].max()).all()


def test_the_heat_map_shows_effects_and_marks_the_significant(done):
    ax = gf.pl.perturbation(done, key="groups", kind="heatmap", n_genes=5, fdr=0.2, show=False)
    table = gf.get.rank_perturbations_df(done, key="groups")
    assert labels(ax, "x") == ["CD4+/CD25 T Reg", "T cell"]
    assert len(labels(ax)) == 5
    shown = table.pivot(index="names", columns="group", values="effect").loc[labels(ax), labels(ax, "x")]
    np.testing.assert_allclose(ax.images[0].get_array(), shown)
    adjusted = table.pivot(index="names", columns="group", values="pvals_adj").loc[labels(ax), labels(ax, "x")]
    dots = {(int(y), int(x)) for x, y in ax.collections[0].get_offsets()}
    assert dots == set(zip(*map(np.ndarray.tolist, np.nonzero(adjusted.to_numpy() < 0.2)), strict=True))
    low, high = ax.images[0].get_clim()
    assert low == -high
    ax = gf.pl.perturbation(done, key="groups", kind="heatmap", groups="T cell", genes=["G7"], show=False)
    assert (labels(ax), labels(ax, "x")) == (["G7"], ["T cell"])


def test_arrows_point_where_the_cells_move(done):
    ax = gf.pl.perturbation_arrows(done, "G0", show=False)
    arrows = next(c for c in ax.collections if isinstance(c, Quiver))
    right = arrows.U / np.hypot(arrows.U, arrows.V)
    assert len(right) > 20
    assert np.median(right) > 0.9
    assert ax.get_title() == "In-silico deletion of G0, 117 cells"
    # of a copy: scanpy stores the colors that it chose
    ax = gf.pl.perturbation_arrows(done.copy(), "G0", color="cell_type", title="mine", show=False)
    assert ax.get_title() == "mine"
    assert ax.get_legend() is not None


def test_responding_genes_come_largest_first(done):
    ax = gf.pl.perturbation_effects(done, "G2 + G3", n_genes=5, min_cells=3, show=False)
    table = gf.get.perturbation_effects_df(done, "G2 + G3", min_cells=3)
    assert labels(ax) == table["names"].head(5).tolist()
    assert "G2 + G3" in ax.get_title(loc="left")
    assert 3 <= len(ax.get_xticks()) <= 7


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"key": "nope"}, "Run gf.tl.rank_perturbations\\(adata\\) first"),
        ({"kind": "nope"}, "choose one of 'ranking', 'volcano', 'heatmap'"),
        ({"n_genes": 0}, "n_genes=0"),
        ({"fdr": "a"}, "fdr='a' must be a number above 0 and at most 1"),
        ({"key": "groups"}, r"has several groups.*'CD4\+/CD25 T Reg', 'T cell'"),
        ({"key": "groups", "groups": "nope"}, "group='nope' does not exist"),
        ({"key": "mixture", "kind": "volcano"}, "has no p-values"),
        ({"genes": ["G1", "nope"]}, r"genes=\['nope'\]"),
    ],
    ids=str,
)
def test_a_bad_parameter_is_refused(done, bad, text):
    with pytest.raises(gf.DataError, match=text):
        gf.pl.perturbation(done, **bad)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"perturbation": "nope"}, r"vectors are stored of: 'G0', 'G2 \+ G3'"),
        ({"key": "nope"}, "vectors=True"),
        ({"basis": "nope"}, r"adata.obsm\['nope'\] does not exist.*sc.tl.umap"),
        ({"use_rep": "nope"}, "Run gf.tl.embed_cells\\(adata\\) first"),
        ({"use_rep": "X_umap"}, "has 2 dimensions, and the vectors of 'geneformer_delete' have 8"),
        ({"n_neighbors": 1}, "n_neighbors=1"),
        ({"temperature": 0}, "temperature=0"),
        ({"temperature": "a"}, "temperature='a' must be a number above 0"),
    ],
    ids=str,
)
def test_a_bad_parameter_of_the_arrows_is_refused(done, bad, text):
    with pytest.raises(gf.DataError, match=text):
        gf.pl.perturbation_arrows(done, **({"perturbation": "G0"} | bad))


def test_too_few_cells_or_genes_are_refused(done):
    with pytest.raises(gf.DataError, match="moves 6 cells"):
        gf.pl.perturbation_arrows(done[:9].copy(), "G0")
    with pytest.raises(gf.DataError, match="No gene is in 1000 cells"):
        gf.pl.perturbation_effects(done, "G0", min_cells=1000)


def test_the_only_perturbation_is_named_where_no_gene_responds():
    adata = make_perturbed(20)
    adata.uns[KEY] |= {"effects": np.array(["G7"], dtype=object)}
    with pytest.raises(gf.DataError, match="No gene is in 1000 cells together with 'G7'"):
        gf.pl.perturbation_effects(adata, min_cells=1000)

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata.tests.helpers import assert_equal
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from toys import make_adata

import scgeneformer as gf
from scgeneformer._adata.training.evaluation import with_method
from scgeneformer._training.scores import score

mpl.use("Agg")
PLOTS = {name: getattr(gf.pl, name) for name in ("confusion", "class_scores", "reliability")}
CLASSES = ["B", "CD4+/CD25 T Reg", "T cell"]
TRUTH = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
TOLD = {"sure": [0, 0, 0, 2, 1, 1, 2, 2, 2, 2], "poor": [0, 2, 2, 2, 2, 1, 2, 2, 0, 0]}


def probability(told, confidence):
    found = np.full((len(told), 3), (1 - confidence) / 2)
    found[np.arange(len(told)), told] = confidence
    return found


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def judged():
    """Two methods on ten cells."""
    adata, entry = make_adata(), None
    for (method, told), confidence in zip(TOLD.items(), (0.95, 0.75), strict=True):
        scores = score(TRUTH, probability(np.array(told), confidence))
        entry = with_method(entry, CLASSES, {"checksum": "x"}, method, scores, n_train=5)
    adata.uns["geneformer_cell_type_evaluation"] = entry
    before = adata.copy()
    yield adata
    assert_equal(adata, before)


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_show_ax_and_return_fig_mean_what_they_mean_in_scanpy(judged, plot, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda *_, **__: shown.append(1))
    assert isinstance(plot(judged, "cell_type", show=False), Axes)
    assert isinstance(plot(judged, "cell_type", return_fig=True), Figure)
    _, ax = plt.subplots()
    plot(judged, "cell_type", ax=ax, show=False)
    assert ax.has_data()
    assert not shown
    assert plot(judged, "cell_type", show=True) is None
    assert shown


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_what_is_not_there_is_named(judged, plot):
    with pytest.raises(KeyError, match=r"gf\.tl\.probe"):
        plot(judged, "donor")
    unknown = {"method": "best"} if plot is gf.pl.confusion else {"methods": "best"}
    with pytest.raises(ValueError, match=r"The method 'best' does not exist.*'sure', 'poor'"):
        plot(judged, "cell_type", **unknown)


def test_confusion_draws_the_method_of_the_highest_f1_in_percent_of_the_true_class(judged):
    ax = gf.pl.confusion(judged, "cell_type", sort=False, show=False)
    assert "sure" in ax.get_title(loc="left")
    assert ax.images[0].get_array().tolist() == [[75, 0, 25], [0, 100, 0], [0, 0, 100]]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["B  (4)", "CD4+/CD25 T Reg  (2)", "T cell  (4)"]
    assert sorted(text.get_text() for text in ax.texts) == ["100", "100", "25", "75"]


def test_confusion_draws_cells_of_a_named_method(judged):
    ax = gf.pl.confusion(judged, "cell_type", method="poor", normalize=False, sort=False, show=False)
    assert ax.images[0].get_array().tolist() == [[1, 0, 3], [0, 1, 1], [2, 0, 2]]


def test_confusion_puts_classes_that_are_confused_side_by_side(judged):
    ax = gf.pl.confusion(judged, "cell_type", method="poor", show=False)
    order = [text.get_text() for text in ax.get_xticklabels()]
    assert abs(order.index("B") - order.index("T cell")) == 1


def test_confusion_of_a_class_without_cells_is_gray(judged):
    entry = judged.uns["geneformer_cell_type_evaluation"]
    other = make_adata()
    other.uns["z"] = {**entry, "confusion": entry["confusion"] * np.array([1, 0, 1])[:, None]}
    ax = gf.pl.confusion(other, "z", method="sure", sort=False, show=False)
    assert np.ma.getmaskarray(ax.images[0].get_array()).all(axis=1).tolist() == [False, True, False]


def test_class_scores_are_sorted_and_have_a_dot_for_each_method(judged):
    ax = gf.pl.class_scores(judged, "cell_type", metric="recall", show=False)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["CD4+/CD25 T Reg  (2)", "T cell  (4)", "B  (4)"]
    dots = {c.get_label(): c.get_offsets()[:, 0].tolist() for c in ax.collections if c.get_label()[0] != "_"}
    assert dots == {"sure (0.917)": [1, 1, 0.75], "poor (0.417)": [0.5, 0.5, 0.25]}
    with pytest.raises(ValueError, match=r"metric='f2'.*'f1'"):
        gf.pl.class_scores(judged, "cell_type", metric="f2")


def test_a_method_has_the_same_color_whatever_is_drawn_beside_it(judged):
    both = gf.pl.reliability(judged, "cell_type", show=False)
    alone = gf.pl.reliability(judged, "cell_type", methods="poor", show=False)
    assert both.get_lines()[2].get_color() == alone.get_lines()[1].get_color()


def test_reliability_draws_accuracy_over_confidence(judged):
    ax = gf.pl.reliability(judged, "cell_type", show=False)
    _, sure, poor = ax.get_lines()
    np.testing.assert_allclose(sure.get_xydata(), [[0.95, 0.9]])
    np.testing.assert_allclose(poor.get_xydata(), [[0.75, 0.4]])
    assert [line.get_label() for line in (sure, poor)] == ["sure (0.050)", "poor (0.350)"]

import numpy as np
import pytest
from perturbed import KEY, make_perturbed

import scgeneformer as gf


def test_responding_genes_come_largest_first_with_scatter_and_cells():
    adata = make_perturbed()
    found = gf.get.perturbation_effects_df(adata, "G2 + G3")
    assert found.columns.tolist() == ["names", "mean", "sd", "n_cells"]
    assert found["mean"].is_monotonic_decreasing
    assert len(found) == 29  # one gene is in no cell
    rows = adata.var_names.get_indexer(found["names"])
    for column, key in (("mean", "effects"), ("sd", "effects_sd"), ("n_cells", "effects_n_cells")):
        np.testing.assert_array_equal(found[column], adata.varm[f"{KEY}_{key}"][rows, 1])
    assert len(gf.get.perturbation_effects_df(adata, "G0", min_cells=20)) == 10


def test_the_only_perturbation_needs_no_name():
    adata = make_perturbed()
    adata.uns[KEY]["effects"] = adata.uns[KEY]["effects"][:1]
    assert gf.get.perturbation_effects_df(adata).equals(gf.get.perturbation_effects_df(adata, "G0"))


def test_the_only_result_needs_no_key_and_several_are_told():
    first, second = "geneformer_inhibit", "geneformer_overexpress"
    adata = make_perturbed(key=second)
    adata.uns[second]["params"]["mode"] = "overexpress"
    assert gf.get.perturbation_effects_df(adata, "G0").equals(gf.get.perturbation_effects_df(adata, "G0", key=second))
    adata.uns[first] = {"params": {"mode": "inhibit"}}
    assert len(gf.get.perturbation_effects_df(adata, "G0"))  # the other has no effects
    with pytest.raises(gf.DataError, match=f"name one of them: key='{second}' or key='{first}'"):
        gf.tl.rank_perturbations(adata)
    adata.uns[KEY] = adata.uns[first]
    with pytest.raises(gf.DataError, match=f"no perturbations under the key '{KEY}'"):  # the default goes first
        gf.tl.rank_perturbations(adata)


def test_what_is_not_there_is_refused():
    adata = make_perturbed()
    with pytest.raises(
        gf.DataError, match=r"perturbation='nope' does not exist; effects are stored of: 'G0', 'G2 \+ G3'"
    ):
        gf.get.perturbation_effects_df(adata, "nope")
    with pytest.raises(gf.DataError, match="names none of them"):
        gf.get.perturbation_effects_df(adata)
    with pytest.raises(gf.DataError, match="min_cells=0"):
        gf.get.perturbation_effects_df(adata, "G0", min_cells=0)
    with pytest.raises(gf.DataError, match="effects=True"):
        gf.get.perturbation_effects_df(adata, "G0", key="nope")
    del adata.uns[KEY]["effects"]
    with pytest.raises(gf.DataError, match="again, with effects=True"):
        gf.get.perturbation_effects_df(adata, "G0")

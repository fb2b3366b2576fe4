"""A second `gf.tl.perturb` under the same key: nothing of the first stays."""

import anndata as ad
import numpy as np
import pytest
from anndata.tests.helpers import assert_equal
from toys import make_adata

import scgeneformer as gf
from scgeneformer._adata.disk.files import edited

GENES = ["G1", "G2", "G3", "G7"]
GOAL = {"column": "state", "start": "ill", "goal": "well"}
EARLIER = {
    "genes, then combinations": ({"genes": GENES}, {"genes": [("G1", "G2")]}),
    "combinations, then genes": ({"genes": [("G1", "G2")]}, {"genes": GENES}),
    "a screen": ({"method": "screen"}, {"genes": GENES}),
    "groups": ({"genes": GENES, "groupby": ["cell_type", "donor"]}, {"genes": GENES}),
    "other groups": ({"genes": GENES, "groupby": "cell_type"}, {"genes": GENES, "groupby": "donor"}),
    "effects and vectors": ({"genes": GENES, "effects": True, "vectors": True}, {"genes": ["G1"]}),
    "states": ({"genes": [*GENES, ("G1", "G2")], "goal": GOAL}, {"genes": ["G1"]}),
    "another state": ({"genes": GENES, "goal": GOAL}, {"genes": GENES, "goal": GOAL | {"goal": "other"}}),
    "layers": ({"genes": GENES, "layer": [0, 1], "groupby": "donor"}, {"genes": GENES, "layer": [1, 0]}),
}


@pytest.mark.parametrize("name", EARLIER)
def test_nothing_of_an_earlier_call_stays_under_its_key(toy, name):
    adata = make_adata()
    adata.obs["state"] = np.resize(["ill", "well", "other"], adata.n_obs)
    adata.layers["geneformer_delete_mine"] = adata.X.copy()
    first, second = EARLIER[name]
    once = gf.tl.perturb(adata, model=toy, copy=True, **second)
    gf.tl.perturb(adata, model=toy, **first)
    gf.tl.perturb(adata, model=toy, **second)
    for slot in ("layers", "obsm", "varm", "uns"):
        assert set(getattr(adata, slot)) == set(getattr(once, slot))
        assert_equal(dict(getattr(adata, slot)), dict(getattr(once, slot)))


def test_a_ranking_is_that_of_the_last_call(toy, log):
    adata = make_adata(60)
    gf.tl.perturb(adata, GENES, model=toy)
    gf.tl.perturb(adata, [("G1", "G2")], model=toy)
    assert "removed, of an earlier call: layers['geneformer_delete'], layers['geneformer_delete_rank']" in log()
    gf.tl.rank_perturbations(adata, test="mean")
    assert gf.get.rank_perturbations_df(adata)["names"].tolist() == ["G1 + G2"]


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_nothing_of_an_earlier_call_stays_in_a_file(adata, toy, tmp_path, form):
    path = tmp_path / f"a.{form}"
    gf.tl.perturb(adata, GENES, model=toy, groupby="donor", effects=True)
    getattr(adata, f"write_{form}")(path)
    with edited(path, path, overwrite=True) as opened:
        gf.tl.perturb(opened, [("G1", "G2")], model=toy)
    back = getattr(ad, f"read_{form}")(path)
    assert [key for slot in (back.layers, back.varm) for key in slot] == []
    assert list(back.obsm) == ["geneformer_delete"]


def test_what_is_not_of_an_earlier_call_stays(adata, toy):
    adata.layers["mine"], adata.uns["mine"] = adata.X.copy(), {"params": {"note": "of somebody else"}}
    gf.tl.perturb(adata, [("G1", "G2")], model=toy, key_added="mine")
    assert "mine" in adata.layers

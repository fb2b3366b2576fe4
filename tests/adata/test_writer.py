"""Results are written all or none, and what an earlier call left goes with them."""

import numpy as np
import pytest
from anndata.tests.helpers import assert_equal

from scgeneformer._adata import writer
from scgeneformer._adata.writer import Results, write

LEFT = [("obs", "old"), ("obsm", "old"), ("layers", "old"), ("uns", "old"), ("varp", "never")]


@pytest.fixture
def adata(adata):
    adata.obs["old"] = 1
    adata.obs["last"] = 2
    adata.obsm["old"] = adata.obsm["kept"] = np.ones((12, 2))
    adata.layers["old"] = adata.X.copy()
    adata.uns["old"] = {"params": 1}
    return adata


@pytest.mark.parametrize("view", [False, True], ids=["whole", "view"])
def test_what_no_longer_holds_is_removed_and_said(adata, view, log):
    some = adata[:8] if view else adata
    write(some, Results(obs={"new": np.arange(some.n_obs)}, obsm={"old": np.zeros((some.n_obs, 1))}, removed=LEFT * 2))
    assert [slot for slot, key in LEFT if key in getattr(some, slot)] == ["obsm"]
    assert some.obsm["old"].shape == (some.n_obs, 1)
    assert {"new", "last"} <= set(some.obs)
    assert "overwritten: obsm['old']\n" in log()
    assert "removed, of an earlier call: obs['old'], layers['old'], uns['old']\n" in log()
    assert set(adata.obsm) == {"old", "kept"}


def test_if_a_result_cannot_be_assigned_nothing_is_removed(unchanged):
    with pytest.raises(ValueError, match="shape"):
        write(unchanged, Results(obs={"new": np.arange(12)}, obsm={"new": np.zeros((3, 1))}, removed=LEFT))


@pytest.mark.parametrize("nth", [0, 1, 2, 3])
def test_if_something_cannot_be_removed_all_is_as_before(adata, nth, monkeypatch):
    before, left, drop = adata.copy(), [nth], writer.drop

    def fail(*args):
        left[0] -= 1
        if left[0] == -1:
            raise KeyboardInterrupt
        drop(*args)

    monkeypatch.setattr(writer, "drop", fail)
    with pytest.raises(KeyboardInterrupt):
        write(adata, Results(obs={"new": np.arange(12)}, varm={"new": np.ones((40, 1))}, removed=LEFT))
    adata.obs = adata.obs[before.obs.columns]  # a column that comes back comes last
    assert_equal(adata, before, exact=True)

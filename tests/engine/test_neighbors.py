import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scgeneformer._engine.statistics import neighbors
from scgeneformer._engine.statistics.neighbors import nearest

AXES = np.array([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [-4, 0, 0]])  # cosines 1, 0 and -1, exactly


@given(
    kinds=st.lists(st.integers(0, len(AXES) - 1), min_size=1, max_size=60),
    n_neighbors=st.integers(1, 70),
    block=st.sampled_from([1, 50, 2**23]),
)
def test_equal_cosines_come_by_row_also_where_the_neighbors_end(kinds, n_neighbors, block):
    vectors, n = AXES[kinds], len(kinds)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(neighbors, "BLOCK", block)
        rows, cosines = nearest(vectors, np.arange(n), n_neighbors)
    assert rows.shape == cosines.shape == (n, min(n_neighbors, n - 1))
    units = vectors / np.abs(vectors).max(axis=1, keepdims=True)
    for i in range(n):
        others = sorted((-units[i] @ units[j], j) for j in range(n) if j != i)[:n_neighbors]
        assert rows[i].tolist() == [j for _, j in others]
        np.testing.assert_array_equal(cosines[i], [-cosine for cosine, _ in others])

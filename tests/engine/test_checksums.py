import numpy as np
import pytest
import scipy.sparse as sp
from toys import make_counts

from scgeneformer._engine.checksums import checksums

COUNTS = make_counts()


def naive(row):
    """Sum of the finaliser of splitmix64 over column and bits of every count."""

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    return sum(mix(i << 32 | int(np.float32(v).view(np.uint32))) for i, v in enumerate(row) if v) % 2**64


def test_they_are_sums_of_hashes():
    found = checksums([COUNTS, COUNTS[::-1]])
    assert (found.shape, found.dtype) == ((12, 2), np.uint64)
    assert found[:, 0].tolist() == [naive(row) for row in COUNTS.toarray()]
    assert found[:, 1].tolist() == found[::-1, 0].tolist()
    assert checksums([sp.csr_matrix((3, 4), dtype=np.float32)]).tolist() == [[0]] * 3


def unsorted(counts):
    found = counts.copy()
    for start, stop in zip(found.indptr[:-1], found.indptr[1:], strict=True):
        for values in (found.data, found.indices):
            values[start:stop] = values[start:stop][::-1].copy()
    return found


def with_zeros(counts):
    dense = counts.toarray()
    indices, indptr = np.tile(np.arange(40), 12), np.arange(13) * 40
    return sp.csr_matrix((dense.ravel(), indices, indptr), shape=dense.shape)


@pytest.mark.parametrize("stored", [unsorted, with_zeros, lambda counts: counts.astype(np.float64)])
def test_they_do_not_depend_on_how_counts_are_stored(stored):
    np.testing.assert_array_equal(checksums([stored(COUNTS)]), checksums([COUNTS]))


def test_a_cell_that_was_changed_has_another():
    dense = COUNTS.toarray()
    dense[3, :2] = dense[3, 1::-1] + [0, 9]  # a count in another place
    dense[5] *= 2
    dense[7, np.flatnonzero(dense[7])[0]] = 0
    changed = checksums([sp.csr_matrix(dense)]) != checksums([COUNTS])
    assert np.flatnonzero(changed).tolist() == [3, 5, 7]

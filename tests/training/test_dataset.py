"""Training data in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fine_tuned import make_cells


def test_the_checksum_is_that_of_all_that_a_training_sees(toy):
    cells = make_cells(toy.vocabulary)
    others = [
        replace(cells, ids=cells.ids[::-1]),
        replace(cells, offsets=cells.offsets + 1),
        replace(cells, labels=1 - cells.labels),
        replace(cells, positions=np.arange(len(cells.ids))),
    ]
    found = {one.checksum() for one in (cells, *others)} | {cells.checksum(np.arange(3))}
    assert len(found) == 6
    assert replace(cells, ids=cells.ids.astype(np.int32)).checksum() == cells.checksum()

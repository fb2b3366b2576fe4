"""Leave cells out of a pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer._engine.tokens import Tokens, offsets_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def only_cells(blocks: Iterable[tuple[int, Tokens]], cells: np.ndarray) -> Iterator[tuple[int, Tokens]]:
    """Yield the same blocks, in which cells that were not chosen, (n_obs,) bool, have no tokens and so are not run."""
    for first, tokens in blocks:
        chosen = cells[first : first + len(tokens)]
        if not chosen.all():
            lengths = tokens.lengths
            kept = np.repeat(chosen, lengths)
            positions = None if tokens.positions is None else tokens.positions[kept]
            tokens = Tokens(tokens.ids[kept], offsets_of(lengths * chosen), positions)
        yield first, tokens

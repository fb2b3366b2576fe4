"""What the functions that mask genes have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np

    from scgeneformer._engine.masked_head import MaskedHead
    from scgeneformer._engine.tokens import Tokens
    from scgeneformer.tl._session import Session


def run_masked(
    session: Session,
    head: MaskedHead,
    doing: str,
    function: Callable[..., Any],
    choose: Callable[[Tokens], Iterable[np.ndarray]],
    n_copies: int,
    **more: Any,
) -> tuple[Any, np.ndarray]:
    """Give masked copies of the cells to a function of the engine.

    Parameters
    ----------
    session
        Model and cells.
    head
        Head of the model.
    doing
        Word for the progress bar.
    function
        Takes the copies, the encoders, the head, `tokens_per_batch`, `advance` and `more`.
    choose
        Gives, for the tokens of a block, which of them to mask in each copy, (total,) bool.
    n_copies
        Copies of cells in all, to foresee the cost.

    Returns
    -------
    What the function returns, and the tokens of each cell, (n_obs,) int32.
    """
    from scgeneformer._engine.masked import MaskedCells

    with session.running(doing, n_copies) as (n_tokens, blocks, advance):
        mask = session.model.vocabulary.special["<mask>"]
        cells = MaskedCells(blocks, session.source.counts.n_obs, choose, mask)
        how = {"tokens_per_batch": session.tokens_per_batch, "advance": advance}
        return function(cells, session.berts, head, **how, **more), n_tokens

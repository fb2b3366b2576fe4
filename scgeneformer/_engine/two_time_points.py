"""Two time points of a cell in one sequence: its genes now, and its genes before.

``<cls>``, the leading genes now, ``<sep>``, the leading genes before, and ``<eos>`` where the model has one. Each half
is the rank-value encoding of the cell at that time, cut to half of the places beside the special tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from scgeneformer._engine.ranking import RankValue, rank_value_encode
from scgeneformer._engine.tokens import Tokens, around_genes
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from scgeneformer._engine.vocabulary import Vocabulary

ADDED = ("<cls>", "<sep>")


@dataclass(frozen=True)
class TwoTimePoints:
    """``<cls>``, genes now, ``<sep>``, genes before, each half ranked by count / median; positions run on."""

    name: ClassVar[str] = "two-time-points"
    n_times: ClassVar[int] = 2
    context: ClassVar[dict[str, list[str]]] = {}
    n_positions: ClassVar[int | None] = None

    def encode(
        self,
        counts: csr_matrix,
        gene_tokens: np.ndarray,
        vocabulary: Vocabulary,
        previous: csr_matrix | None = None,
    ) -> tuple[Tokens, np.ndarray]:
        """See the module; cells that have no known gene at either time are empty.

        Parameters
        ----------
        counts, gene_tokens, vocabulary
            As in :func:`ranking.rank_value_encode`.
        previous
            Counts of the same cells and genes before, (n_cells, n_vars) CSR; None: nothing is known of them.

        Returns
        -------
        The tokens, and the known genes of each cell now, before truncation, (n_cells,) int32.
        """
        half = replace(vocabulary, special={}, input_size=vocabulary.max_genes, encoding=RankValue())
        now, n_genes = rank_value_encode(counts, gene_tokens, half)
        before = Tokens(np.empty(0, np.int32), np.zeros(len(now) + 1, np.int64))
        if previous is not None:
            before, _ = rank_value_encode(previous, gene_tokens, half)
        return join(now, before, vocabulary), n_genes


def join(now: Tokens, before: Tokens, vocabulary: Vocabulary) -> Tokens:
    """Sequences of both time points from the genes of each; a cell that has genes at neither is empty."""
    lengths = now.lengths + before.lengths
    filled = lengths > 0
    tokens = around_genes(lengths + filled, vocabulary)  # one more for <sep>
    starts = tokens.offsets[:-1] + vocabulary.n_lead
    seps = starts + now.lengths
    tokens.ids[_places(now, starts)] = now.ids
    tokens.ids[seps[filled]] = vocabulary.sep_token
    tokens.ids[_places(before, seps + 1)] = before.ids
    return tokens


def reads_two_times(vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary with two time points as its encoding, ``<cls>`` and ``<sep>`` behind all tokens if it lacks them.

    Raises
    ------
    DataError
        If its encoding is neither this nor by rank.
    """
    if isinstance(vocabulary.encoding, TwoTimePoints):
        return vocabulary
    if not isinstance(vocabulary.encoding, RankValue):
        raise DataError(
            f"The model reads the encoding {vocabulary.encoding.name!r}, and two time points are both encoded by rank. "
            "Take a model of the rank-value encoding."
        )
    special = dict(vocabulary.special)
    for token, name in enumerate((name for name in ADDED if name not in special), start=vocabulary.n_tokens):
        special[name] = token
    return replace(vocabulary, special=special, encoding=TwoTimePoints())


def _places(tokens: Tokens, starts: np.ndarray) -> np.ndarray:
    """Where each token comes if the cells begin at `starts`."""
    return np.arange(len(tokens.ids)) + np.repeat(starts - tokens.offsets[:-1], tokens.lengths)

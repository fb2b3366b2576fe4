"""The genes of ``adata.var`` as the model knows them, wherever the counts are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scgeneformer._adata.gene_choice import choose_genes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scgeneformer._adata.tokens import CellTokens


def tokens_of_var(source: CellTokens) -> np.ndarray:
    """Token of each gene of ``adata.var``, (n_vars,) int32; by name where the counts are those of ``adata.raw``."""
    counts = source.counts
    if not counts.raw:
        return source.genes.tokens
    names, tokens = list(counts.var.index), source.genes.tokens.tolist()
    of_name = dict(zip(reversed(names), reversed(tokens), strict=True))
    return np.array([of_name.get(name, -1) for name in counts.adata.var_names], dtype=np.int32)


def tokens_of_genes(source: CellTokens, genes: str | Sequence[str] | None) -> np.ndarray:
    """Tokens of the genes that are named, each once; of all that the counts hold if None."""
    if genes is None:
        return np.unique(source.genes.tokens[source.genes.tokens >= 0])
    return choose_genes(source.counts.var, source.genes, source.vocabulary, genes)[1]

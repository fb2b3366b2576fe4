from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer._adata import keys
from scgeneformer._adata.gene_vectors import gene_vectors, rows_of
from scgeneformer._checks import as_names, check_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


def gene_neighbors(
    adata: AnnData,
    key: str = keys.GENES,
    *,
    genes: str | Sequence[str] | None = None,
    group: str | None = None,
    n_neighbors: int = 10,
) -> pd.DataFrame:
    """Find the genes whose contextual embeddings are nearest by cosine.

    The search is exact. It goes block by block, so that the memory needed does not grow with the square of the number
    of genes. Genes without an embedding (NaN) are left out. Nothing is written to `adata`.

    Parameters
    ----------
    adata
        With gene embeddings in `varm`, as `gf.tl.embed_genes` leaves them.
    key
        Key in `varm`: "geneformer", or "geneformer_<groupby>" for those of groups of cells.
    genes
        One or several genes whose neighbours are asked for, as in `adata.var_names`, or in any case as there or in the
        usual columns of IDs and symbols; those that are missing are listed in a warning. None means all genes.
    group
        Group of cells whose gene embeddings are compared; needed where ``varm[key]`` is one per group.
    n_neighbors
        Neighbours of each gene; fewer if there are not as many genes.

    Returns
    -------
    DataFrame with columns `gene`, `neighbor`, `rank` (1 = nearest) and `similarity` (cosine), the genes in the order
    asked for.

    Raises
    ------
    DataError
        If there are no gene embeddings under `key`, or none of the genes or not the group is among them.

    Examples
    --------
    >>> import numpy as np
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:, :3].copy()
    >>> adata.varm["mine"] = np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    >>> gf.tl.gene_neighbors(adata, "mine", genes="HES4", n_neighbors=1)
       gene neighbor  rank  similarity
    0  HES4    SSU72     1         0.6
    """
    from scgeneformer._engine.statistics.neighbors import nearest

    check_whole(n_neighbors=n_neighbors)
    known, vectors = gene_vectors(adata, key, group)
    queries = np.arange(len(known)) if genes is None else rows_of(adata, as_names(genes), known)
    rows, cosines = nearest(vectors, queries, n_neighbors)
    names = adata.var_names[known].to_numpy()
    k = rows.shape[1]
    return pd.DataFrame(
        {
            "gene": np.repeat(names[queries], k),
            "neighbor": names[rows.ravel()],
            "rank": np.tile(np.arange(1, k + 1), len(queries)),
            "similarity": cosines.ravel(),
        }
    )

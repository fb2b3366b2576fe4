from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scanpy import logging as logg

from scgeneformer import models
from scgeneformer._adata import keys
from scgeneformer._adata.counts import count_share, open_counts
from scgeneformer._adata.frames import in_memory
from scgeneformer._adata.genes import map_genes as find_genes
from scgeneformer._adata.writer import Results, target_of, write
from scgeneformer._docs import shared_docs
from scgeneformer._engine.genes import is_ensembl

if TYPE_CHECKING:
    from anndata import AnnData

    from scgeneformer.models import ModelLike


@shared_docs
def map_genes(
    adata: AnnData,
    model: ModelLike | None = None,
    *,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Map the genes to the Ensembl IDs and tokens of a model.

    Takes Ensembl IDs with or without version, symbols and aliases in any case. The other functions do the same by
    themselves; call this to see, keep or correct the mapping. Genes that map to one ID share its token and are summed
    where cells are encoded. The log says how many genes and what share of the counts the model knows.

    Parameters
    ----------
    adata
        Cells × genes.
    {model}
    {counts}
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets

    `adata.var['ensembl_id']` : str
        Ensembl ID in the vocabulary; for genes the model does not know the Ensembl ID the data give, else empty.
    `adata.var['geneformer_token']` : int32
        Token of the gene, -1 if the model does not know it.

    Raises
    ------
    DataError
        If less than a tenth of the genes is known, they are those of another species, or the values are no counts.
    MissingKeyError
        If the layer or column does not exist.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()
    >>> gf.pp.map_genes(adata, model="mini")
    >>> adata.var.loc["CD74", "ensembl_id"]
    'ENSG00000019582'
    """
    target = target_of(adata, copy)
    vocabulary = models.load_vocabulary(model)
    var = in_memory(adata.var)
    genes = find_genes(var, vocabulary, gene_ids)
    counts = open_counts(adata, counts_layer, use_raw)
    counted = find_genes(counts.var, vocabulary, gene_ids) if counts.raw else genes
    share = count_share(counts, counted.tokens)
    id_of = pd.Series(vocabulary.ensembl_ids, index=vocabulary.tokens)
    known = genes.tokens >= 0
    given = var[keys.ENSEMBL_ID].astype(str) if keys.ENSEMBL_ID in var else genes.names
    ids = np.array([name if is_ensembl(name) else "" for name in given], dtype=object)
    ids[known] = id_of.loc[genes.tokens[known]].to_numpy()
    write(target, Results(var={keys.ENSEMBL_ID: ids, keys.GENE_TOKEN: genes.tokens}))
    others = f", {genes.n_filled:,} of them by other columns" if genes.n_filled else ""
    logg.info(
        f"{genes.n_matched:,} of {adata.n_vars:,} genes, with {share:.1%} of the counts, are known to the model "
        f"(by {genes.column}{others}; {genes.n_duplicates} of them share a token with another and are summed with it)"
    )
    return target if copy else None

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from scgeneformer import models
from scgeneformer._adata import keys
from scgeneformer._adata.tokens import open_tokens
from scgeneformer._adata.writer import Results, target_of, warn_empty, write
from scgeneformer._docs import shared_docs
from scgeneformer._engine.two_time_points import reads_two_times
from scgeneformer._progress import progress

if TYPE_CHECKING:
    from anndata import AnnData

    from scgeneformer.models import ModelLike


@shared_docs
def tokenize(
    adata: AnnData,
    model: ModelLike | None = None,
    *,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
    previous_layer: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Store the tokens of every cell as a model reads them.

    Rank-value encoding: the genes of a cell in descending order of count / median of the gene over the training corpus,
    cut to the input size of the model (`TranscriptomeTokenizer` of the reference). Models of value bins, such as those
    of scGPT: genes in descending order of count, and the bin of each. Optional: the other functions encode on the fly,
    and use stored tokens only if they were made from the same counts and genes with the same vocabulary.

    With `previous_layer` a cell is ``<cls>``, its leading genes now, ``<sep>``, its leading genes before, each half cut
    to half of the places beside the special tokens. Either half may be empty.

    Parameters
    ----------
    adata
        Cells × genes, with raw or log1p-normalised counts.
    {model}
    {counts}
    previous_layer
        Layer with the counts of the same cells before: two time points are encoded, as a model reads them that
        :func:`train_classifier` makes of `model`. A cell of which nothing is known then has zeros or NaN there.
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets

    `adata.obsm['geneformer_tokens']` : uint16 (n_obs, input_size)
        Tokens, special ones included, 0 behind the last.
    `adata.obsm['geneformer_bins']` : uint8 or uint16 (n_obs, input_size)
        With models of value bins: the bin of the value of each gene, the number of bins for special tokens, 0 behind
        the last token.
    `adata.obs['geneformer_n_genes']` : int32
        Genes with a count (now) that the model knows, before truncation.
    `adata.obs['geneformer_n_tokens']` : int32
        Tokens of the cell after truncation; 0 for cells in which the model knows no gene.
    `adata.uns['geneformer_tokens']` : dict
        `params`, what the tokens depend on, and `max_genes`, the most genes of a cell, at each time point, that fit.

    Raises
    ------
    DataError
        If there are no counts, the genes are unknown or of another species, or the values are no counts.
    ModelError
        If the model cannot be used.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()
    >>> gf.tl.tokenize(adata, model="mini")
    >>> adata.obsm["geneformer_tokens"].shape
    (700, 2048)
    """
    target = target_of(adata, copy)
    vocabulary = models.load_vocabulary(model)
    vocabulary = vocabulary if previous_layer is None else reads_two_times(vocabulary)
    source = open_tokens(
        adata,
        vocabulary,
        counts_layer=counts_layer,
        use_raw=use_raw,
        gene_ids=gene_ids,
        previous_layer=previous_layer,
        stored=False,
    )
    start = logg.info("tokenizing cells")
    dtype = np.uint16 if vocabulary.n_tokens <= 2**16 else np.uint32
    padded = np.zeros((adata.n_obs, vocabulary.input_size), dtype=dtype)
    bins = None
    n_genes = np.zeros(adata.n_obs, dtype=np.int32)
    with progress(adata.n_obs, "tokenize") as advance:
        for first, tokens, found in source.blocks():
            rows = slice(first, first + len(tokens))
            padded[rows] = tokens.to_padded(vocabulary.input_size, dtype=dtype)
            if tokens.positions is not None:
                bins = np.zeros_like(padded, dtype=tokens.positions.dtype) if bins is None else bins
                bins[rows] = tokens.positions_to_padded(vocabulary.input_size, dtype=bins.dtype)
            n_genes[rows] = found
            advance(len(tokens))
    n_tokens = (padded != 0).sum(axis=1, dtype=np.int32)
    warn_empty(n_tokens, adata)
    results = Results(
        obs={keys.N_GENES: n_genes, keys.N_TOKENS: n_tokens},
        obsm={keys.TOKENS: padded} | ({} if bins is None else {keys.BINS: bins}),
        uns={keys.TOKENS: {"params": source.params, "max_genes": vocabulary.max_genes}},
    )
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None

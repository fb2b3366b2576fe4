from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg

from scgeneformer import models
from scgeneformer._adata import keys
from scgeneformer._adata.dask_chunks import RowChunks, is_dask
from scgeneformer._adata.disk.parts import Parts, name_of_counts, open_store
from scgeneformer._adata.disk.rows import Rows
from scgeneformer._adata.tokens import one_ahead, open_tokens
from scgeneformer._adata.writer import Results, target_of, warn_empty, write
from scgeneformer._docs import shared_docs
from scgeneformer._engine.checksums import checksums
from scgeneformer._engine.two_time_points import reads_two_times
from scgeneformer._progress import progress
from scgeneformer.tl._chunks import refuse_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import scipy.sparse as sp
    from anndata import AnnData

    from scgeneformer._adata.disk.run_store import RunStore
    from scgeneformer._adata.tokens import CellTokens
    from scgeneformer._engine.tokens import Tokens
    from scgeneformer._engine.vocabulary import Vocabulary
    from scgeneformer.models import ModelLike

    Block = tuple[int, list[sp.csr_matrix]]  # first cell, counts at each time point


@shared_docs
def tokenize(
    adata: AnnData,
    model: ModelLike | None = None,
    *,
    out: str | Path | None = None,
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
    {cells}
    {model}
    {out}
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
    `adata.obsm['geneformer_checksums']` : uint64 (n_obs, n_times)
        A checksum of the counts of each cell, at each time point, by which it is told whether they are still the same.
    `adata.obs['geneformer_n_genes']` : int32
        Genes with a count (now) that the model knows, before truncation.
    `adata.obs['geneformer_n_tokens']` : int32
        Tokens of the cell after truncation; 0 for cells in which the model knows no gene.
    `adata.uns['geneformer_tokens']` : dict
        `params`, what the tokens depend on, and `max_genes`, the most genes of a cell, at each time point, that fit.

    If the counts are a dask array, those in `obsm` are dask arrays, nothing is computed, and `obs` gets no columns.

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
    stale = [("obsm", keys.BINS), ("obs", keys.N_GENES), ("obs", keys.N_TOKENS)]  # of another kind of model or counts
    results = Results(uns={keys.TOKENS: {"params": source.params, "max_genes": vocabulary.max_genes}}, removed=stale)
    if is_dask(source.stored[0]):
        refuse_store(out)
        chunks = RowChunks(source.stored)
        parts = chunks.map(_pad_chunk, source.without_data())
        for key, (dtype, width) in _layout(vocabulary).items():
            results.obsm[key] = chunks.stack(parts, itemgetter(key), (width,), dtype)
    else:
        with open_store(out, "tokenize", adata, source.params) as store, progress(adata.n_obs, "tokenize") as advance:
            results.obsm, results.obs = _pad(source, advance, store)
        warn_empty(results.obs[keys.N_TOKENS], adata)
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None


def _layout(vocabulary: Vocabulary) -> dict[str, tuple[type, int]]:
    """Type, the smallest that does, and number of the columns of what is stored in `obsm`."""
    size, encoding = vocabulary.input_size, vocabulary.encoding
    found: dict[str, tuple[type, int]] = {
        keys.TOKENS: (np.uint16 if vocabulary.n_tokens <= 2**16 else np.uint32, size),
        keys.CHECKSUMS: (np.uint64, encoding.n_times),
    }
    if encoding.n_positions is not None:
        found[keys.BINS] = (np.uint8 if encoding.n_positions <= 2**8 else np.uint16, size)
    return found


def _pad(
    source: CellTokens, advance: Callable[[int], object], store: RunStore | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What is stored of all cells in `obsm` and in `obs`; blocks that the store has come from it.

    What it has of other counts is refused.
    """
    n_obs, folder = source.counts.n_obs, None if store is None else store.path
    layout = _layout(source.vocabulary)
    found = {key: Rows((n_obs, width), dtype, folder) for key, (dtype, width) in layout.items()}
    columns = {key: np.zeros(n_obs, dtype=np.int32) for key in (keys.N_GENES, keys.N_TOKENS)}

    def put(block: Block, part: dict[str, np.ndarray]) -> None:
        first, n = block[0], len(part[keys.N_GENES])
        for key, rows in found.items():
            rows.put(first, part[key])
        for key, values in columns.items():
            values[first : first + n] = part[key]
        advance(n)

    def encode(block: Block) -> tuple[Block, tuple[Tokens, np.ndarray, np.ndarray]]:
        return block, (*source.encode(*block), checksums(block[1]))

    parts = Parts(store, name_of_counts, put, lambda block: None)
    for block, encoded in one_ahead(encode, parts.missing(source.blocks_of_counts())):
        parts.done(block, _pad_block(layout, *encoded))
    return {key: rows.array() for key, rows in found.items()}, columns


def _pad_block(
    layout: dict[str, tuple[type, int]], tokens: Tokens, n_genes: np.ndarray, sums: np.ndarray
) -> dict[str, np.ndarray]:
    """What is stored of the cells of a block."""
    part = {keys.N_GENES: n_genes, keys.N_TOKENS: tokens.lengths.astype(np.int32), keys.CHECKSUMS: sums}
    dtype, width = layout[keys.TOKENS]
    part[keys.TOKENS] = tokens.to_padded(width, dtype=dtype)
    if tokens.positions is not None:
        part[keys.BINS] = tokens.positions_to_padded(width, dtype=layout[keys.BINS][0])
    return part


def _pad_chunk(source: CellTokens, first: int, matrices: Sequence[Any]) -> dict[str, np.ndarray]:
    return _pad(source.of_rows(matrices), lambda n: None)[0]

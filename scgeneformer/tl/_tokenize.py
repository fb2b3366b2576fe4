from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg

from scgeneformer import models
from scgeneformer._adata import keys
from scgeneformer._adata.dask_chunks import RowChunks, is_dask
from scgeneformer._adata.disk.parts import open_store
from scgeneformer._adata.disk.rows import Rows
from scgeneformer._adata.tokens import open_tokens
from scgeneformer._adata.writer import Results, target_of, warn_empty, write
from scgeneformer._docs import shared_docs
from scgeneformer._engine.two_time_points import reads_two_times
from scgeneformer._progress import progress
from scgeneformer.tl._chunks import refuse_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from anndata import AnnData

    from scgeneformer._adata.disk.run_store import RunStore
    from scgeneformer._adata.tokens import CellTokens
    from scgeneformer._engine.vocabulary import Vocabulary
    from scgeneformer.models import ModelLike

WHOLE = "whole-run"  # in place of a checksum of each block: its counts are not read again


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
    results = Results(uns={keys.TOKENS: {"params": source.params, "max_genes": vocabulary.max_genes}})
    if is_dask(source.stored[0]):
        refuse_store(out)
        chunks = RowChunks(source.stored)
        parts = chunks.map(_pad_chunk, source.without_data())
        for key, dtype in _dtypes(vocabulary).items():
            results.obsm[key] = chunks.stack(parts, itemgetter(key), (vocabulary.input_size,), dtype)
    else:
        basis = {} if out is None else _basis(source)
        with open_store(out, "tokenize", adata, basis) as store, progress(adata.n_obs, "tokenize") as advance:
            results.obsm, results.obs = _pad(source, advance, store)
        warn_empty(results.obs[keys.N_TOKENS], adata)
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None


def _dtypes(vocabulary: Vocabulary) -> dict[str, type]:
    """What is stored of each cell, with the smallest type that holds it."""
    dtypes: dict[str, type] = {keys.TOKENS: np.uint16 if vocabulary.n_tokens <= 2**16 else np.uint32}
    if (n := vocabulary.encoding.n_positions) is not None:
        dtypes[keys.BINS] = np.uint8 if n <= 2**8 else np.uint16
    return dtypes


def _basis(source: CellTokens) -> dict[str, str]:
    """What the tokens depend on; counts are looked at in a sample of the cells."""
    return source.params | {"values": source.checksum_of_sample()}


def _pad(
    source: CellTokens, advance: Callable[[int], object], store: RunStore | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What is stored of all cells in `obsm`, (n_obs, input_size), and in `obs`."""
    shape, folder = (source.counts.n_obs, source.vocabulary.input_size), None if store is None else store.path
    found = {key: Rows(shape, dtype, folder) for key, dtype in _dtypes(source.vocabulary).items()}
    columns = {key: np.zeros(shape[0], dtype=np.int32) for key in (keys.N_GENES, keys.N_TOKENS)}
    for first, part in _parts(source, store):
        for key, rows in found.items():
            rows.put(first, part[key])
        for key, values in columns.items():
            values[first : first + len(part[key])] = part[key]
        advance(len(part[keys.N_GENES]))
    return {key: rows.array() for key, rows in found.items()}, columns


def _parts(source: CellTokens, store: RunStore | None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield (first row, what is stored of them) of consecutive cells: what the store has, then what it lacks."""
    begin, width, dtypes = 0, source.vocabulary.input_size, _dtypes(source.vocabulary)
    while store is not None and (stored := store.load(_name(begin), WHOLE)) is not None:
        yield begin, stored
        begin += len(stored[keys.N_GENES])
    for first, tokens, known in source.blocks(begin):
        part = {keys.N_GENES: known, keys.N_TOKENS: tokens.lengths.astype(np.int32)}
        part[keys.TOKENS] = tokens.to_padded(width, dtype=dtypes[keys.TOKENS])
        if tokens.positions is not None:
            part[keys.BINS] = tokens.positions_to_padded(width, dtype=dtypes[keys.BINS])
        if store is not None:
            store.save(_name(first), WHOLE, part)
        yield first, part


def _name(first: int) -> str:
    return f"cells-{first:09d}"


def _pad_chunk(source: CellTokens, first: int, matrices: Sequence[Any]) -> dict[str, np.ndarray]:
    return _pad(source.of_rows(matrices), lambda n: None)[0]

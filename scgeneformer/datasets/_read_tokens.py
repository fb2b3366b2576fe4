from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scanpy import logging as logg

from scgeneformer import models
from scgeneformer._adata import keys
from scgeneformer._adata.disk.token_files import OBS_NAMES, TokenFile
from scgeneformer._adata.tokens import file_tokens
from scgeneformer._adata.writer import Results, warn_empty, write
from scgeneformer._docs import shared_docs
from scgeneformer._engine.sequences import ranking_of
from scgeneformer._errors import DataError, OutOfMemoryError
from scgeneformer._progress import progress

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer._engine.vocabulary import Vocabulary
    from scgeneformer.models import ModelLike

ROWS_AT_ONCE = 2048


@shared_docs
def read_tokens(
    path: str | os.PathLike[str],
    model: ModelLike | None = None,
    *,
    rows: slice | Sequence[int] | np.ndarray | None = None,
    obs_names: str | None = None,
    truncate: bool = False,
    drop_duplicates: bool = False,
) -> AnnData:
    """Read cells that the reference Geneformer has tokenised: a folder `*.dataset`, such as those of Genecorpus-30M.

    The functions of `gf.tl` that run a model take the result like any other AnnData: its tokens stand in for the
    counts, which are unknown. What cannot do without counts says so. Folders of :func:`write_tokens` and of
    `datasets.Dataset.save_to_disk` are read alike.

    Parameters
    ----------
    path
        The folder.
    {model}
    rows
        Cells to read: a slice, their numbers, or a mask. All of them take `n_obs` × input size × 2 bytes.
    obs_names
        Column with the names of the cells; None takes "obs_names" where there is one, as in folders of
        :func:`write_tokens`, else the numbers of the rows in the folder.
    truncate
        Cut cells that are longer than the input size of the model, instead of refusing them.
    drop_duplicates
        Keep the first of tokens that a cell holds twice (which the reference writes for an Ensembl ID that is listed
        twice), instead of refusing them.

    Returns
    -------
    AnnData of the cells, in the order of the folder, × all genes of the model. `X` is None.

    `obs` :
        All columns with one value per cell, text that repeats as categories; ``geneformer_n_tokens`` and
        ``geneformer_n_genes``, int32, the latter without those that the file's truncation has cut off.
    `var` :
        Ensembl IDs, and ``gene_symbols``.
    `obsm['geneformer_tokens']`, `uns['geneformer_tokens']` :
        As of :func:`scgeneformer.tl.tokenize`; ``params["counts"]`` is "token file", `file` the path.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    DataError
        If it is no folder of tokens, disagrees with itself, or its tokens are not those of the model.
    OutOfMemoryError
        If the cells do not fit into the memory.
    MissingExtraError
        If pyarrow is not installed (extra "datasets").

    See Also
    --------
    write_tokens : the other way round.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:20]
    >>> gf.datasets.write_tokens(adata, "pbmc.dataset", model="mini")
    >>> cells = gf.datasets.read_tokens("pbmc.dataset", model="mini")
    >>> gf.tl.embed_cells(cells, model="mini")
    >>> cells.obsm["X_geneformer"].shape
    (20, 128)
    """
    vocabulary = models.load_vocabulary(model)
    file = TokenFile(path, vocabulary, truncate=truncate, drop_duplicates=drop_duplicates)
    chosen = _chosen(rows, file.n_obs)
    start = logg.info(f"reading {len(chosen):,} cells from {file.path}")
    padded, n_genes = _read(file, chosen)
    adata = _cells(file, chosen, obs_names, vocabulary)
    n_tokens = (padded != 0).sum(axis=1, dtype=np.int32)
    warn_empty(n_tokens, adata)
    facts: dict[str, Any] = {"max_genes": vocabulary.max_genes, "ranking": ranking_of(vocabulary), "file": str(path)}
    results = Results(
        obs={keys.N_GENES: n_genes, keys.N_TOKENS: n_tokens},
        obsm={keys.TOKENS: padded},
        uns={keys.TOKENS: {"params": file_tokens(adata, vocabulary).params, **facts}},
    )
    write(adata, results)
    logg.info("    finished", time=start)
    return adata


def _chosen(rows: slice | Sequence[int] | np.ndarray | None, n_obs: int) -> np.ndarray:
    """Numbers of the rows asked for, (n,) int64."""
    every = np.arange(n_obs)
    if rows is None or isinstance(rows, slice):
        return every if rows is None else every[rows]
    asked = np.asarray(rows)
    if asked.ndim != 1 or (len(asked) and asked.dtype.kind not in "iub"):
        raise DataError("rows= must be a slice, numbers of rows, or a mask of all rows.")
    if asked.dtype == bool and len(asked) != n_obs:
        raise DataError(f"rows= is a mask of {len(asked):,} rows, and the folder has {n_obs:,}.")
    if asked.dtype != bool and len(bad := asked[(asked < -n_obs) | (asked >= n_obs)]):
        raise DataError(f"rows= names the row {bad[0]}, and the folder has {n_obs:,}.")
    return every[asked if len(asked) else []]


def _read(file: TokenFile, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the given rows, padded, and their numbers of genes."""
    vocabulary = file.vocabulary
    shape, dtype = (len(rows), vocabulary.input_size), np.uint16 if vocabulary.n_tokens <= 2**16 else np.uint32
    try:
        padded = np.zeros(shape, dtype=dtype)
    except MemoryError as error:
        size = np.prod(shape, dtype=float) * np.dtype(dtype).itemsize
        raise OutOfMemoryError(
            f"The tokens of {len(rows):,} cells take {size / 1e9:.3g} GB, more than is free. Read some of them: rows=."
        ) from error
    n_genes = np.zeros(len(rows), dtype=np.int32)
    with progress(len(rows), "read tokens") as advance:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            tokens = file.take(rows[some])
            padded[some] = tokens.to_padded(vocabulary.input_size, dtype=dtype)
            n_genes[some] = file.n_genes(tokens)
            advance(len(tokens))
    return padded, n_genes


def _cells(file: TokenFile, rows: np.ndarray, obs_names: str | None, vocabulary: Vocabulary) -> AnnData:
    """The cells without their tokens."""
    import anndata as ad

    names = obs_names if obs_names is not None or OBS_NAMES not in file.columns else OBS_NAMES
    index = pd.Index(np.asarray(rows if names is None else file.column(names, rows)).astype(str).astype(object))
    if not index.is_unique:
        logg.warning(f"the names of the cells in the column {names!r} are not unique: numbers were put behind some")
        index = ad.utils.make_index_unique(index)
    obs = pd.DataFrame({name: file.column(name, rows) for name in file.columns if name != names}, index=index)
    var = pd.DataFrame({"gene_symbols": vocabulary.symbols.astype(object)}, index=vocabulary.ensembl_ids.astype(object))
    return ad.AnnData(obs=obs, var=var)

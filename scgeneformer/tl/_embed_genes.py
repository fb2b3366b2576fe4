from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.frames import in_memory
from scgeneformer._adata.gene_choice import choose_genes
from scgeneformer._adata.genes import INDEX, GeneMap
from scgeneformer._adata.groups import find_groups
from scgeneformer._adata.sampling import sample_cells
from scgeneformer._adata.var_tokens import Spread, tokens_of_var
from scgeneformer._adata.writer import Results, target_of, write
from scgeneformer._checks import check_choice, check_whole
from scgeneformer._docs import shared_docs
from scgeneformer._engine.statistics.aggregate import AGGREGATES
from scgeneformer._errors import DataError
from scgeneformer.tl._embed_genes_run import room_for_cells, run
from scgeneformer.tl._session import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from scgeneformer._adata.groups import Groups
    from scgeneformer._engine.gene_median import GeneMedians
    from scgeneformer._engine.gene_sums import GeneSums
    from scgeneformer.models import ModelLike
    from scgeneformer.tl._session import Session


@shared_docs
def embed_genes(
    adata: AnnData,
    model: ModelLike | None = None,
    *,
    layer: int | Sequence[int] = -2,
    genes: str | Sequence[str] | None = None,
    groupby: str | Sequence[str] | None = None,
    agg: Literal["mean", "median", "var"] = "mean",
    per_cell: bool = False,
    min_cells: int = 1,
    sample: int | None = None,
    seed: int = 0,
    max_memory_gb: float = 4.0,
    out: str | Path | None = None,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
    previous_layer: str | None = None,
    device: str | Sequence[str] = "auto",
    dtype: str = "auto",
    tokens_per_batch: int | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Embed every gene with Geneformer, in the context of all cells and of groups of cells.

    The contextual embedding of a gene in a cell is the hidden state at the gene's position in that cell. This combines
    it over the cells that contain the gene (`EmbExtractor` of the reference with ``emb_mode="gene"``), for all cells
    and for every group in one pass. Means and variances are reduced on the device: memory grows with groups × genes,
    not with the cells. If the model reads two time points, embedded are the genes of the cell now, which the model sees
    together with those before.

    Parameters
    ----------
    {cells}
    {model}
    {layer}
    genes
        Genes to embed, as in ``adata.var_names``, in the column of `gene_ids`, or as any symbol, alias or Ensembl ID
        the model knows; those that are missing are listed in a warning. None takes every gene of ``adata.var``.
    groupby
        One or several columns of ``adata.obs``: also one embedding per gene and group. Cells without a label count
        among all cells and in no group.
    agg
        "mean"; "median", element by element and exact; or "var", the variance of the cells at hand (``ddof=0``).
        "mean" and "var" are accumulated in float64.
    per_cell
        Also keep the embedding of each of `genes` in every cell.
    min_cells
        Results over fewer cells that contain the gene are NaN.
    sample
        Work on a random sample of at most so many cells, drawn by their names; None takes all.
    seed
        Of the sample.
    max_memory_gb
        For ``agg="median"``, which needs all values at once: beyond this they are kept in a temporary file (in the
        folder that TMPDIR names), which the log says. The result is the same.
    out
        Folder (a zarr store) for the sums so far, which are stored about once a minute. Called again after an
        interruption, with the same arguments and data, the run goes on from there. For means and variances.
    {counts}
    {previous}
    {device}
    key_added
        Key instead of "geneformer".
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets

    `adata.varm['geneformer' | key_added]` : float32 (n_vars, d)
        Embedding of each gene over all cells; NaN for genes the model does not know, that were not asked for, or that
        are in fewer than `min_cells` cells. Genes that share a token receive the same. With several layers one key
        per layer, ``geneformer_L<n>``, n counted from 0. With ``use_raw=True``, too, rows are the genes of
        ``adata.var``, found in ``adata.raw`` by their name; the model reads genes that only ``adata.raw`` has, too.
    `adata.varm['geneformer_n_cells']` : int32 (n_vars, 1)
        Cells that contain the gene, after truncation.
    `adata.varm['geneformer_<groupby>']` : float32 (n_vars, n_groups, d)
        The same within each group, if `groupby` was given.
    `adata.varm['geneformer_<groupby>_n_cells']` : int32 (n_vars, n_groups)
        Cells of each group that contain the gene.
    `adata.obsm['geneformer_genes']` : float32 (n_obs, n_genes, d)
        If ``per_cell=True``: embedding of each of `genes` in every cell, NaN where the cell does not contain it.
    `adata.uns['geneformer' | key_added]['params']` : dict
        Model, layer, agg and all else the numbers depend on; likewise for the other keys.
    `adata.uns['geneformer_<groupby>']` : dict
        Also ``groups``, the names of the groups in the order of the axis, and ``labels``, a frame with the label of
        each group in each column and the number of its cells.
    `adata.uns['geneformer_genes']` : dict
        Also ``genes``, their names in the order of the axis.

    If the counts are a dask array, dask computes the sums, chunk by chunk; medians are computed by this process.

    Raises
    ------
    DataError
        If there are no counts, the genes are unknown or of another species, the values are no counts, a parameter
        names something that does not exist, or medians fit neither memory nor disk. Nothing is written then.
    ModelError
        If the model cannot be used.
    OutOfMemoryError
        If sums, or with ``per_cell=True`` the embeddings, do not fit into the memory.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:100].copy()
    >>> gf.tl.embed_genes(adata, model="mini", groupby="cell_type")
    >>> adata.varm["geneformer"].shape
    (765, 128)
    >>> n_groups = len(adata.uns["geneformer_cell_type"]["groups"])
    >>> adata.varm["geneformer_cell_type"].shape == (765, n_groups, 128)
    True
    """
    target = target_of(adata, copy, key_added)
    _check(agg, genes, per_cell, min_cells, sample, seed, max_memory_gb, out)
    key = key_added or keys.GENES
    groups = None if groupby is None else find_groups(adata, groupby, key=key)
    session = open_session(
        adata,
        model,
        layer,
        counts_layer=counts_layer,
        use_raw=use_raw,
        gene_ids=gene_ids,
        previous_layer=previous_layer,
        device=device,
        dtype=dtype,
        tokens_per_batch=tokens_per_batch,
    )
    mapped = _genes_of_var(session)
    names, tokens = _choose(session, mapped, genes)
    slot_of_token = session.model.vocabulary.slots(tokens)
    start = logg.info(f"embedding genes with {session.model.name}")
    everyone = np.ones(adata.n_obs, dtype=bool), np.zeros(adata.n_obs, dtype=np.int64)
    cells = sample_cells(adata, sample, seed, *everyone)
    states = room_for_cells(adata.n_obs, len(tokens), session) if per_cell else None
    found, used = run(session, groups, slot_of_token, len(tokens), agg, cells, states, max_memory_gb, out)

    spread = Spread(np.where(mapped.tokens >= 0, slot_of_token[mapped.tokens], -1), min_cells)
    params: dict[str, Any] = {"agg": agg, "min_cells": min_cells}
    params |= {} if cells.all() else {"sample": int(cells.sum()), "seed": seed}
    results = _of_all_cells(session, key, found, spread, params)
    if states is not None:
        for n, values in states.items():
            name = keys.layer_key(keys.genes_key(key), n, len(session.layers))
            results.obsm[name] = values
            results.uns[name] = {"params": session.params(layer=n), "genes": np.array(names)}
    if groups is not None:
        n_cells = groups.count(used)
        _warn_small(groups, n_cells, min_cells)
        params["groupby"] = np.array(groups.columns)
        _add_groups(results, session, key, groups, groups.table(n_cells), found, spread, params)
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None


def _check(
    agg: str,
    genes: Sequence[str] | None,
    per_cell: bool,
    min_cells: int,
    sample: int | None,
    seed: int,
    max_memory_gb: float,
    out: str | Path | None,
) -> None:
    check_choice(AGGREGATES, agg=agg)
    if per_cell and genes is None:
        raise DataError(
            "per_cell=True keeps n_obs × n_genes × d numbers, too many for all genes. Name those you need: genes=[...]."
        )
    if out is not None and (agg == "median" or per_cell):
        reason = "agg='median'" if agg == "median" else "per_cell=True"
        raise DataError(f"out={str(out)!r} keeps sums over cells, and {reason} needs every cell. Call without out=.")
    check_whole(min_cells=min_cells, sample=1 if sample is None else sample)
    check_whole(0, seed=seed)
    if isinstance(max_memory_gb, str | bool | None) or not max_memory_gb >= 0:
        raise DataError(f"max_memory_gb={max_memory_gb!r} must be a number of at least 0.")


def _genes_of_var(session: Session) -> GeneMap:
    """Tokens of the genes of `adata.var`, also where the counts are those of `adata.raw`."""
    counts, genes = session.source.counts, session.source.genes
    return GeneMap(tokens_of_var(session.source), INDEX, counts.adata.var_names.to_numpy(str)) if counts.raw else genes


def _choose(session: Session, mapped: GeneMap, genes: Sequence[str] | None) -> tuple[list[str], np.ndarray]:
    """Names of the genes asked for, and the tokens to be summed."""
    if genes is None:
        return [], np.unique(mapped.tokens[mapped.tokens >= 0])
    return choose_genes(in_memory(session.source.counts.adata.var), mapped, session.model.vocabulary, genes)


def _of_all_cells(
    session: Session, key: str, found: GeneSums | GeneMedians, spread: Spread, params: dict[str, Any]
) -> Results:
    """Results over all cells; the groups, those without a label included, add up to them."""
    n_cells = found.n_cells.sum(axis=0)
    results = Results(varm={keys.n_cells(key): spread.counts(n_cells[None])})
    for n in session.layers:
        name = keys.layer_key(key, n, len(session.layers))
        out = np.empty((spread.n_vars, session.model.width), dtype=np.float32)
        results.varm[name] = spread.fill(out, found.of(n), n_cells)
        results.uns[name] = {"params": session.params(layer=n, **params)}
    return results


def _add_groups(
    results: Results,
    session: Session,
    key: str,
    groups: Groups,
    labels: pd.DataFrame,
    found: GeneSums | GeneMedians,
    spread: Spread,
    params: dict[str, Any],
) -> None:
    key, n_groups = keys.group_key(key, groups.columns), len(groups.names)
    results.varm[keys.n_cells(key)] = spread.counts(found.n_cells[:n_groups])
    for n in session.layers:
        name = keys.layer_key(key, n, len(session.layers))
        values = np.empty((spread.n_vars, n_groups, session.model.width), dtype=np.float32)
        for group in range(n_groups):
            spread.fill(values[:, group], found.of(n, group), found.n_cells[group])
        results.varm[name] = values
        names = np.array(groups.names)
        results.uns[name] = {"params": session.params(layer=n, **params), "groups": names, "labels": labels}


def _warn_small(groups: Groups, n_cells: np.ndarray, min_cells: int) -> None:
    small = [f"{groups.names[i]} ({n_cells[i]})" for i in np.flatnonzero(n_cells < min_cells)]
    if small:
        more = f" and {len(small) - 10} more" if len(small) > 10 else ""
        logg.warning(f"groups of fewer than min_cells={min_cells} cells are NaN: {', '.join(small[:10])}{more}")

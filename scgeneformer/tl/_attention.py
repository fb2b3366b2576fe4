from __future__ import annotations

from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.groups import find_groups
from scgeneformer._adata.var_tokens import tokens_of_genes, tokens_of_var
from scgeneformer._adata.writer import Results, target_of, warn_empty, write
from scgeneformer._checks import check_whole
from scgeneformer._docs import shared_docs
from scgeneformer._errors import DataError
from scgeneformer.tl._session import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer.models import ModelLike


@shared_docs
def attention(
    adata: AnnData,
    model: ModelLike | None = None,
    *,
    layer: int = -1,
    heads: int | Sequence[int] | None = None,
    genes: str | Sequence[str] | None = None,
    groupby: str | Sequence[str] | None = None,
    top_k: int | None = None,
    min_cells: int = 1,
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
    """Average the attention between genes over cells.

    In every cell each gene (the query) divides an attention of 1 among all tokens of the cell (the keys). These
    weights, from query gene i to key gene j, are averaged over the heads asked for, and then over the cells in which
    both genes occur. Special tokens have no row and no column in the result; they keep their share of the attention,
    so that the weights of a gene in a cell sum to less than 1 where the model has such tokens. What is not asked for
    by `genes` keeps its share likewise, and so do the genes before, if the model reads two time points.

    Parameters
    ----------
    {cells}
    {model}
    layer
        Block whose attention is taken, named by the hidden layer it leads to: n = block n, from 1; negative from the
        end (-1 last). The blocks behind it are not run.
    heads
        One or several heads to average over, counted from 0; None takes all.
    genes
        Genes of interest; None takes all that the model knows. Memory grows with the square of their number.
    groupby
        One or several columns of ``adata.obs``: one result per group of cells instead of one over all cells.
    top_k
        Number of genes that are kept of those each gene attends to, the strongest; None keeps all pairs that occur.
    min_cells
        Leave out pairs that occur together in fewer cells.
    {counts}
    {previous}
    {device}
    key_added
        Key instead of "geneformer_attention".
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets

    `adata.varp['geneformer_attention' | key_added]` : CSR float32 (n_vars, n_vars)
        Mean attention from the gene of the row to that of the column. Genes that share a token have equal rows and
        columns.
    `adata.varp['geneformer_attention_n_cells']` : CSR int32 (n_vars, n_vars)
        Cells in which both genes occur, for the pairs above.
    `adata.uns['geneformer_attention' | key_added]['params']` : dict
        Model, layer, heads and all else the numbers depend on.

    and with `groupby` in place of these

    `adata.varp['geneformer_attention_<groupby>_<i>']`, `adata.varp['geneformer_attention_<groupby>_<i>_n_cells']`
        As above, over the cells of group number i.
    `adata.uns['geneformer_attention_<groupby>']['params']` : dict
        As above.
    `adata.uns['geneformer_attention_<groupby>_groups']` : DataFrame (n_groups, n_columns + 1)
        Labels and number of cells of each group; row i belongs to the matrix of number i.

    Raises
    ------
    DataError
        If there are no counts, or `layer`, `heads`, `genes`, `groupby`, `top_k` or `min_cells` cannot be used.
        Nothing is written then.
    ModelError
        If the model cannot be used.

    Notes
    -----
    Pairs are summed densely (12 bytes for each pair and group) as long as that takes less than 2 GB, and otherwise
    sparsely (20 bytes for each pair that occurs). Of the attention itself only a tile of one cell exists at a time. The
    result takes 16 bytes for each pair that is kept: for all genes in many cells `genes` or `top_k` keep it small.

    See Also
    --------
    scgeneformer.get.attention_df : the strongest pairs as a table.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:20].copy()
    >>> gf.tl.attention(adata, model="mini", layer=-2, top_k=10)
    >>> adata.varp["geneformer_attention"].shape
    (765, 765)
    """
    from scgeneformer._engine.attention_weights import attention_sums, mean_of_pairs

    target = target_of(adata, copy, key_added)
    check_whole(top_k=1 if top_k is None else top_k, min_cells=min_cells)
    key = keys.ATTENTION if key_added is None else key_added
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
    block = _block(session.layers, layer)
    chosen_heads = _heads(heads, session.model.bert.config.num_attention_heads)
    of_var, tokens = tokens_of_var(session.source), tokens_of_genes(session.source, genes)
    if len(tokens) == 1:
        logg.warning(
            "One gene has no pairs: only its attention to itself is stored. Name several: genes=['<gene>', ...]."
        )
    slot_of_token = session.model.vocabulary.slots(tokens)
    codes = np.zeros(adata.n_obs, dtype=np.int64) if groups is None else groups.codes
    n_groups = 1 if groups is None else len(groups.names)

    start = logg.info(f"averaging attention of block {block} of {session.model.name}")
    with session.running("attention") as (n_tokens, blocks, advance):
        rows, columns = (codes, n_groups), (slot_of_token, len(tokens))  # of the cells, of the genes
        sums = attention_sums(
            blocks, session.berts, block, chosen_heads, session.tokens_per_batch, *rows, *columns, advance
        )
    warn_empty(n_tokens, adata)

    params = session.params(layer=block, heads=np.array(chosen_heads), min_cells=min_cells)
    params |= {} if top_k is None else {"top_k": top_k}
    results = Results(obs={keys.N_TOKENS: n_tokens})
    if groups is not None:
        key = keys.group_key(key, groups.columns)
        params["groupby"] = np.array(groups.columns)
        results.uns[keys.groups_table(key)] = groups.table(groups.count(n_tokens > 0))
    results.uns[key] = {"params": params}
    names = [key] if groups is None else [keys.numbered(key, i) for i in range(n_groups)]
    slot_of_var = np.where(of_var >= 0, slot_of_token[of_var], -1)
    for i, name in enumerate(names):
        mean, n_cells = mean_of_pairs(sums.of_group(i), min_cells, top_k)
        results.varp |= {name: _to_var(mean, slot_of_var), keys.n_cells(name): _to_var(n_cells, slot_of_var)}
    if groups is not None:
        results.removed = _of_more_groups(adata, key, n_groups)
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None


def _block(layers: list[int], asked: Any) -> int:
    if len(layers) != 1:
        raise DataError(
            f"layer={asked!r} names several layers, and attention is that of one. Name one, such as layer=-1."
        )
    if layers[0] == 0:
        raise DataError(
            f"layer={asked!r} is the embedding output, which no attention leads to. Take layer=1 (first "
            "block) or higher, or layer=-1 (last)."
        )
    return layers[0]


def _heads(heads: int | Sequence[int] | None, n_heads: int) -> list[int]:
    asked = list(range(n_heads)) if heads is None else [heads] if isinstance(heads, int | np.integer) else list(heads)
    valid = [isinstance(h, int | np.integer) and not isinstance(h, bool) and 0 <= h < n_heads for h in asked]
    if not asked or not all(valid):
        raise DataError(f"heads={heads!r}: the model has the heads 0 to {n_heads - 1}. Name at least one of them.")
    return sorted({int(head) for head in asked})


def _to_var(matrix: sp.csr_matrix, slot_of_var: np.ndarray) -> sp.csr_matrix:
    """Rows and columns of the slots at the places of the genes of `var`, (n_vars, n_vars)."""
    genes = np.flatnonzero(slot_of_var >= 0)
    found = matrix[slot_of_var[genes]][:, slot_of_var[genes]].tocoo()
    placed = (found.data, (genes[found.row], genes[found.col]))
    return sp.csr_matrix(placed, shape=(len(slot_of_var), len(slot_of_var)))


def _of_more_groups(adata: AnnData, key: str, n_groups: int) -> list[tuple[str, str]]:
    """Matrices that an earlier call, with more groups, left under numbers that no group has now."""
    numbered = (keys.numbered(key, i) for i in count(n_groups))
    names = takewhile(lambda name: name in adata.varp, numbered)
    return [("varp", one) for name in names for one in (name, keys.n_cells(name))]

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.gene_context_frame import to_uns
from scgeneformer._adata.replicates import find_design
from scgeneformer._adata.writer import Results, target_of, write
from scgeneformer._checks import check_whole
from scgeneformer._docs import shared_docs
from scgeneformer.tl._session import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer._adata.replicates import Design
    from scgeneformer._engine.gene_sums import GeneSums
    from scgeneformer._engine.statistics.gene_context import Comparison
    from scgeneformer.models import ModelLike
    from scgeneformer.tl._session import Session


@shared_docs
def rank_genes_context(
    adata: AnnData,
    groupby: str | Sequence[str],
    model: ModelLike | None = None,
    *,
    layer: int | Sequence[int] = -2,
    groups: str | Sequence[str] = "all",
    reference: str = "rest",
    replicate: str | None = None,
    n_replicates: int = 5,
    n_rotations: int = 500,
    min_cells: int = 3,
    seed: int = 0,
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
    r"""Rank genes by how much their contextual embedding differs between groups of cells.

    The counterpart of :func:`scanpy.tl.rank_genes_groups` for what the model reads into a gene, whatever its own
    expression: the hidden state at the gene's position, in the cells that contain the gene. One forward pass sums it
    over the cells of every group × replicate; effects and their null follow from these sums.

    Parameters
    ----------
    {cells}
    groupby
        One or several columns of ``adata.obs`` that define the groups.
    {model}
    {layer}
    groups
        Names of the groups, or "all".
    reference
        "rest" compares each group with all other cells that have a label, else the name of a group.
    replicate
        Column of ``adata.obs`` with the independent samples, such as donors. None splits the cells of each group at
        random: cells are then the unit of the test, and p-values do not speak of other donors.
    n_replicates
        Number of random splits; without effect where `replicate` is given.
    n_rotations
        Random rotations of the null.
    min_cells
        Cells of a replicate that must contain a gene for the replicate to count for this gene.
    seed
        Of the random splits and rotations.
    {counts}
    {previous}
    {device}
    key_added
        Key instead of "rank_genes_context".
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets ``adata.uns['rank_genes_context' | key_added]``, a dict that
    `gf.get.rank_genes_context_df` reads as a frame. With several layers one key per layer, ``<key>_L<n>``, n counted
    from 0. Arrays are (n_genes, n_groups), over the genes the model knows, each column sorted by p-value, then effect:

    `'names'` : str
        Genes.
    `'effect'` : float64
        Cosine distance between group and reference less that between replicates of the same side; 0 on average
        without a difference, so that it can be negative.
    `'scores'` : float64
        Effect over its noise.
    `'pvals'`, `'pvals_adj'` : float64
        Of a rotation test, and its Benjamini-Hochberg adjustment over the genes of the group.
    `'n_cells'`, `'n_cells_reference'`, `'n_replicates'` : int64
        Cells of group and reference with the gene, and replicates of the group that count for it.
    `'groups'` : str (n_groups,)
        Names of the groups.
    `'params'` : dict
        Model, layer, groups, replicates and all else the numbers depend on.

    Genes with less than two replicates on a side have NaN and come last. Genes that share a token share its result.

    Raises
    ------
    DataError
        If a column, group or reference does not exist, group and reference are the same, no group has two replicates,
        or counts and genes cannot be used. Nothing is written then.
    ModelError
        If the model cannot be used.

    Notes
    -----
    Of one gene, let :math:`x_r` be its mean embedding in replicate r, scaled to unit length, and
    :math:`c_{rs} = 1 - x_r \cdot x_s`. With n replicates A of the group and m replicates B of the reference,

    .. math::
        effect = \overline{c_{AB}} - (w_A + w_B) / 2, \quad score = 2 \, effect / (w_A / n + w_B / m)

    where :math:`w` is the mean of :math:`c` over pairs within a side. The null are the scores after random rotations
    of the differences between replicates, scaled by the noise of their side: replicates that trade places, made to work
    for few replicates and for sides of unequal noise (Langsrud 2005). It is pooled over all genes with the same n and
    m, but for those found in a first round; :math:`p = (1 + \#\{null \ge score\}) / (1 + \#null)`. Pooling makes three
    donors against three usable, at a price: genes of one cell move together, and where they do, the p-values of all
    genes are low or high together.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()
    >>> adata = adata[adata.obs["cell_type"].isin(["CD19+ B", "CD56+ NK"])].copy()
    >>> gf.tl.rank_genes_context(adata, "cell_type", model="mini", reference="CD56+ NK")
    >>> adata.uns["rank_genes_context"]["groups"]
    array(['CD19+ B'], dtype=object)
    """
    target = target_of(adata, copy, key_added)
    check_whole(n_rotations=n_rotations, min_cells=min_cells)
    check_whole(0, seed=seed)
    design = find_design(adata, groupby, groups, reference, replicate, n_replicates, seed)
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
    known = np.flatnonzero(session.source.genes.tokens >= 0)
    tokens, slots = np.unique(session.source.genes.tokens[known], return_inverse=True)
    start = logg.info(f"comparing the context of {len(tokens)} genes between {len(design.groups)} groups")
    sums = _sums(session, design, tokens)
    names = session.source.counts.var.index.to_numpy(str)[known]
    results = Results()
    for n in session.layers:
        comparisons = _compare(sums, design, n, min_cells=min_cells, n_rotations=n_rotations, seed=seed)
        optional = {} if replicate is None else {"replicate": replicate}
        params = session.params(
            layer=n,
            groupby=np.array(design.columns, dtype=object),
            reference=design.reference,
            n_replicates=design.n_replicates,
            n_rotations=n_rotations,
            min_cells=min_cells,
            seed=seed,
            **optional,
        )
        found = to_uns(comparisons, design.groups, names, slots)
        results.uns[keys.layer_key(key_added or keys.GENE_CONTEXT, n, len(session.layers))] = {
            "params": params,
            **found,
        }
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None


def _sums(session: Session, design: Design, tokens: np.ndarray) -> GeneSums:
    """Sums of the embeddings of the genes with these tokens over the cells of every unit, in one pass."""
    from scgeneformer._engine.gene_sums import gene_sums
    from scgeneformer._engine.tokens import only_cells

    needed = design.unit_of_cell >= 0
    slot_of_token = session.model.vocabulary.slots(tokens)
    with session.running("compare", int(needed.sum())) as (_, blocks, advance):
        return gene_sums(
            only_cells(blocks, needed),
            session.berts,
            session.layers,
            session.tokens_per_batch,
            design.unit_of_cell,
            design.n_units,
            slot_of_token,
            len(tokens),
            advance=advance,
        )


def _compare(sums: GeneSums, design: Design, layer: int, **how: int) -> list[Comparison]:
    """Compare each group with its reference; say how well."""
    from scgeneformer._engine.statistics.gene_context import compare

    found = []
    pairs = zip(design.groups, design.sides(sums.sums[layer]), design.sides(sums.n_cells), strict=True)
    for name, (own, other), (n_own, n_other) in pairs:
        comparison = compare((own, n_own), (other, n_other), **how)
        found.append(comparison)
        tested = int((~np.isnan(comparison.score)).sum())
        if not tested:
            fewer = "" if design.replicate else " or n_replicates="
            logg.warning(
                f"{name!r}: no gene is in {how['min_cells']} cells of two replicates on both sides (all NaN). Lower "
                f"min_cells={fewer}, or compare larger groups."
            )
            continue
        logg.info(f"    {name!r}: {tested} genes tested, {int((comparison.pvals_adj < 0.05).sum())} with FDR < 0.05")
    return found

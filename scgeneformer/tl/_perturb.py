from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.groups import find_groups
from scgeneformer._adata.perturbation.goal import find_goal
from scgeneformer._adata.perturbation.writer import PerturbationWriter
from scgeneformer._adata.writer import Results, target_of, write
from scgeneformer._docs import shared_docs
from scgeneformer._engine.encodings import check_ranked
from scgeneformer.tl._perturb_request import Request, check, choose_dtype, find_cells
from scgeneformer.tl._perturb_run import run_all
from scgeneformer.tl._session import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

    from scgeneformer._adata.perturbation.choice import Genes
    from scgeneformer.models import ModelLike


@shared_docs
def perturb(
    adata: AnnData,
    genes: Genes = None,
    mode: Literal["delete", "overexpress", "activate", "inhibit", "mask", "pad", "replace", "set"] = "delete",
    *,
    model: ModelLike | None = None,
    layer: int | Sequence[int] = -2,
    to: int | float | str | None = None,
    anchor: str | None = None,
    refill: bool = False,
    positions: Literal["shift", "hold", "both"] = "shift",
    measure: Literal["genes", "cls", "mean"] | None = None,
    goal: dict[str, Any] | None = None,
    effects: bool = False,
    vectors: bool = False,
    n_matched: int = 0,
    groupby: str | Sequence[str] | None = None,
    method: Literal["exact", "screen"] = "exact",
    n_exact: int = 30,
    sample: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
    device: str | Sequence[str] = "auto",
    dtype: str = "auto",
    tokens_per_batch: int | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Perturb genes in silico, and measure how far each cell moves.

    Every perturbation changes the ranked genes of a cell; the changed cell is run through the model beside the cell as
    it is. A list of genes is a sweep, one perturbation for each; a tuple is one perturbation of several genes together.

    Parameters
    ----------
    {cells}
    genes
        Genes, as in ``adata.var_names``, in the column of `gene_ids`, or as any symbol, alias or Ensembl ID the model
        knows. A list perturbs them one by one. None: every gene of each cell in turn. A tuple in the list is a
        combination, ``[("GATA4", "TBX5")]``; a dict a combination of several modes,
        ``{"delete": ["GATA4"], "set": {"TBX5": 20.0}, "replace": {"NKX2-5": "<mask>"}}``.
    mode
        - "delete": the gene is removed, and those behind it move up.
        - "overexpress": the gene moves to rank 1, or enters there; several keep their order.
        - "activate", "inhibit": it moves up or down by a quarter of the cell's genes, or to rank `to`, never beyond the
          first or last rank; a gene that is beyond `to` already stays.
        - "mask", "pad": ``<mask>`` or ``<pad>`` takes its place. "replace": the token `to` does.
        - "set": it gets the expression `to`, and all genes are ranked anew.

        "overexpress" and "set" apply to every cell that is not empty, the others to cells that contain the gene (all
        genes of a combination) within the model's input size.
    {model}
    {layer}
    to
        For "activate" and "inhibit" a rank, 1 being the first; for "set" counts per 10,000, 0 for none; for "replace" a
        special token, a gene or the number of a token.
    anchor
        Gene that is perturbed together with each of the others: all pairs with it.
    refill
        Edit the cell before it is cut to the model's input size, so that genes from beyond the cut move in
        (Cellarium ML); False edits what the model reads (the reference). "set" always does the former.
    positions
        Where a gene is removed, the reference lets those behind it move up by one position, which alone moves the
        cell, the more the earlier the gene stood. "hold" leaves the gap, so that the gene's own effect remains; only
        for "delete", "mask", "pad" and "replace". "both" stores both.
    measure
        "genes": 1 − mean, over the unperturbed genes that are there before and after, of the cosine of the gene's
        embedding before and after; "cls": 1 − cosine of the ``<cls>`` embedding; "mean": 1 − cosine of the means over
        the cell's genes. None: "cls" for models that have one, else "genes" (as the reference).
    goal
        Start, goal and other states of the cells, such as
        ``{"column": "disease", "start": "dcm", "goal": "nf", "alternatives": ["hcm"]}``. Cells of the start state are
        perturbed, and for every state it is measured how far they move towards it:
        cos(after, state) − cos(before, state), with the mean embedding of the state's cells.
    effects
        Also measure how far each other gene moves, averaged over cells. Only for genes that are named.
    vectors
        Also keep how the embedding of each cell changes. Only for genes that are named.
    n_matched
        For each of `genes` and every cell perturb so many other genes of nearest rank too, as a null for
        :func:`rank_perturbations`; for genes that are not in the cell, others that are not.
    groupby
        One or several columns of ``adata.obs``: also the mean shift over the cells of each group.
    method
        "exact" runs every perturbation. "screen" estimates them all at a small part of the cost (deletion and
        overexpression of single genes, in float32), and runs those exactly that lead the estimate.
    n_exact
        With ``method="screen"``: perturbations of each cell that are run exactly, those of the largest estimated shift
        or, with `goal`, the largest towards or away from a state; and all genes that enter a cell by overexpression.
    sample
        Work on a random sample of at most so many cells (of each group), drawn by their names; None takes all.
    seed
        Of the sample, and of the screen.
    {out}
    {counts}
    {devices}
    dtype
        "auto" (what `gf.settings.dtype` names, else float32), "float32" or, on CUDA, "tf32"; "bfloat16" and "float16"
        hide what many single genes do.
    {tokens_per_batch}
    key_added
        Key instead of "geneformer_<mode>".
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. KEY is "geneformer_<mode>" ("geneformer_edits" for dicts) or `key_added`, with
    "_hold" behind it for held positions and "_anchor" for pairs with an anchor. With several layers one KEY per layer,
    ``KEY_L<n>``. Sets

    `adata.layers[KEY]` : CSR float32 (n_obs, n_vars)
        Shift of each cell under the perturbation of each gene, 0 = not moved, at most 2. Entries are stored even if
        they are 0; where there is none, the perturbation does not apply, or the cell is not in the sample.
    `adata.layers[KEY_rank]` : CSR float32 (n_obs, n_vars)
        Rank of the gene in the unperturbed cell, 1 = first, 0 = not in it, for the same entries.
    `adata.layers[KEY_exact]` : CSR float32 (n_obs, n_vars)
        With ``method="screen"``, for the same entries: 1 where the shift is exact, 0 where it is estimated.
    `adata.layers[KEY_to_<state>]` : CSR float32 (n_obs, n_vars)
        With `goal`, for each state: positive = towards it.
    `adata.obsm[KEY]`, `adata.obsm[KEY_to_<state>]` : float32 (n_obs, n_combinations)
        The same of combinations, NaN where they do not apply.
    `adata.obsm[KEY_vectors]` : float32 (n_obs, n_perturbations, d)
        With ``vectors=True``: embedding of the perturbed cell minus that of the cell.
    `adata.varm[KEY_effects]`, `adata.varm[KEY_effects_sd]` : float32 (n_vars, n_perturbations)
        With ``effects=True``: mean and standard deviation (``ddof=1``) over cells of 1 − cosine of each other gene's
        embedding before and after; NaN where no cell has both genes.
    `adata.varm[KEY_effects_n_cells]` : int32 (n_vars, n_perturbations)
        Number of these cells.
    `adata.varm[KEY_<groupby>]`, `adata.varm[KEY_<groupby>_n_cells]` : float32, int32 (n_vars, n_groups)
        With `groupby`: mean shift, and number of cells.
    `adata.uns[KEY]` : dict
        ``params`` and, where they apply, ``genes`` (asked for), ``combinations``, ``states`` and ``state_keys``,
        ``effects`` and ``vectors`` (names of the perturbations), ``groups``: names in the order of the axes.

    If the counts are a dask array, dask computes the shifts, chunk by chunk.

    Raises
    ------
    DataError
        If nothing of `genes` can be used, a parameter has no meaning for the mode, a state has no cells, or counts and
        genes cannot be used. Nothing is written then.
    ModelError
        If the model cannot be used.

    See Also
    --------
    rank_perturbations : statistics over cells.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:20].copy()
    >>> gf.tl.perturb(adata, ["CD74", "LYZ", ("CD74", "LYZ")], model="mini")
    >>> adata.layers["geneformer_delete"].shape, adata.obsm["geneformer_delete"].shape
    ((20, 765), (20, 1))
    """
    target = target_of(adata, copy, key_added)
    request = Request(
        genes=genes,
        mode=mode,
        to=to,
        anchor=anchor,
        refill=refill,
        positions=positions,
        measure=measure,
        effects=effects,
        vectors=vectors,
        n_matched=n_matched,
        sample=sample,
        seed=seed,
        method=method,
        n_exact=n_exact,
    )
    check(request)
    states = None if goal is None else find_goal(adata, goal)
    groups = None if groupby is None else find_groups(adata, groupby, key=key_added or keys.PERTURBATION)
    session = open_session(
        adata,
        model,
        layer,
        counts_layer=counts_layer,
        use_raw=use_raw,
        gene_ids=gene_ids,
        device=device,
        dtype=choose_dtype(dtype, method),
        tokens_per_batch=tokens_per_batch,
    )
    remedy = "To delete genes, set their counts to zero in a copy of adata, and compare the embeddings of both."
    check_ranked(session.model.vocabulary, "gf.tl.perturb", remedy)
    cells = find_cells(adata, request, states, groups)
    start = logg.info(f"perturbing {int(cells.sum())} cells with {session.model.name}")
    found = run_all(session, request, states, cells, out)
    writer = PerturbationWriter(
        adata, found.tokens_of_var, session.model.vocabulary.n_tokens, found.choice, states, groups
    )
    results = Results()
    for hold, gathered in found.gathered.items():
        key = keys.perturbation_key(
            key_added or f"geneformer_{found.choice.mode}", hold=hold, anchor=anchor is not None
        )
        for n in session.layers:
            params = found.params | {"layer": n, "positions": "hold" if hold else "shift"}
            writer.write(results, keys.layer_key(key, n, len(session.layers)), n, gathered, params)
        writer.warn_without_cells(gathered)
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None

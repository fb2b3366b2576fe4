from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.writer import Results, target_of, warn_empty, write
from scgeneformer._checks import check_positive, check_whole
from scgeneformer._docs import shared_docs
from scgeneformer._engine.encodings import check_ranked
from scgeneformer.tl._masked_run import run_masked
from scgeneformer.tl._session import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer.models import ModelLike


@shared_docs
def score_masked_genes(
    adata: AnnData,
    model: ModelLike | None = None,
    *,
    fraction: float = 0.15,
    n_passes: int | None = None,
    seed: int = 0,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
    device: str | Sequence[str] = "auto",
    dtype: str = "auto",
    tokens_per_batch: int | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Score how well the model foretells each cell.

    The genes of a cell are dealt at random into disjoint subsets; each subset in turn is masked, and the model gives
    the probability of the genes under the masks from all others and from their ranks. Their mean logarithm tells how
    much the cell looks like those the model was trained on: low values point to other tissues, states or platforms,
    doublets and poor quality. It needs the head the model was pretrained with.

    Parameters
    ----------
    {cells}
    {model}
    fraction
        Share of the genes of a cell that is masked at a time; 0.15, as in pretraining, makes 7 subsets.
    n_passes
        Number of subsets to run, each a pass over all cells; None runs all, so that every gene is scored once.
    seed
        Of the random subsets. They also depend on the tokens of the cell, not on its row.
    {counts}
    {device}
    key_added
        Prefix instead of "geneformer" for the keys in `obs`.
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets

    `adata.obs['geneformer_log_likelihood']` : float32
        Mean natural logarithm of the probability of the masked genes, NaN for cells in which the model knows no gene.
    `adata.obs['geneformer_pseudo_perplexity']` : float32
        exp of minus that: among how many equally likely genes the model hesitates.
    `adata.obs['geneformer_n_tokens']` : int32
        Tokens of each cell, special ones included, after truncation.
    `adata.uns['geneformer_log_likelihood']['params']` : dict
        Model, fraction, seed and all else the numbers depend on.

    Raises
    ------
    DataError
        If there are no counts, or `fraction`, `n_passes` or `seed` cannot be used. Nothing is written then.
    ModelError
        If the model cannot be used, or has no head for masked genes.

    See Also
    --------
    predict_masked_genes : what the model expects in place of a gene.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:20].copy()
    >>> gf.tl.score_masked_genes(adata, model="mini", n_passes=1)
    >>> bool((adata.obs["geneformer_log_likelihood"] < 0).all())
    True
    """
    from scgeneformer._engine.masked import masked_log_likelihood
    from scgeneformer._engine.masks import masks_of_subsets
    from scgeneformer.models._head import load_head

    target = target_of(adata, copy, key_added)
    n_subsets, passes = _passes(fraction, n_passes, seed)
    session = open_session(
        adata,
        model,
        -1,
        counts_layer=counts_layer,
        use_raw=use_raw,
        gene_ids=gene_ids,
        device=device,
        dtype=dtype,
        tokens_per_batch=tokens_per_batch,
    )
    check_ranked(session.model.vocabulary, "gf.tl.score_masked_genes", "Take a model of the rank-value encoding.")
    vocabulary, head = session.model.vocabulary, load_head(session.model)
    choose = partial(masks_of_subsets, n_subsets=n_subsets, n_passes=passes, seed=seed, vocabulary=vocabulary)
    start = logg.info(f"scoring masked genes with {session.model.name} in {passes} passes")
    found, n_tokens = run_masked(session, head, "score", masked_log_likelihood, choose, passes * adata.n_obs)
    warn_empty(n_tokens, adata)

    key, perplexity = keys.LOG_LIKELIHOOD, keys.PSEUDO_PERPLEXITY
    if key_added is not None:
        key, perplexity = (f"{key_added}{name.removeprefix('geneformer')}" for name in (key, perplexity))
    params = session.params(fraction=float(fraction), n_subsets=n_subsets, n_passes=passes, seed=int(seed))
    results = Results(
        obs={
            key: found.astype(np.float32),
            perplexity: np.exp(-found).astype(np.float32),
            keys.N_TOKENS: n_tokens,
        },
        uns={key: {"params": params}},
    )
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None


def _passes(fraction: float, n_passes: int | None, seed: int) -> tuple[int, int]:
    """Number of subsets, and how many of them to run."""
    check_positive(1, fraction=fraction)
    n_subsets = int(np.ceil(1 / fraction - 1e-9))
    passes = n_subsets if n_passes is None else n_passes
    check_whole(1, n_subsets, n_passes=passes)
    check_whole(0, 2**63 - 1, seed=seed)
    return n_subsets, int(passes)

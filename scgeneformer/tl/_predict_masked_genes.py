from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scanpy import logging as logg

from scgeneformer._adata.var_tokens import tokens_of_genes
from scgeneformer._checks import check_whole
from scgeneformer._docs import shared_docs
from scgeneformer._engine.encodings import check_ranked
from scgeneformer.tl._masked_run import run_masked
from scgeneformer.tl._session import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer._engine.masked import Predictions
    from scgeneformer.models import ModelLike
    from scgeneformer.tl._session import Session


@shared_docs
def predict_masked_genes(
    adata: AnnData,
    genes: str | Sequence[str],
    model: ModelLike | None = None,
    *,
    n_genes: int = 10,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
    device: str | Sequence[str] = "auto",
    dtype: str = "auto",
    tokens_per_batch: int | None = None,
) -> pd.DataFrame:
    """Ask the model which gene it expects in place of another.

    Each of the genes is masked in every cell in which it occurs, one at a time, and the model predicts the gene under
    the mask from all others and from its rank. It needs the head the model was pretrained with. Nothing is written.

    Parameters
    ----------
    {cells}
    genes
        Genes to mask, as in ``adata.var_names``, in the column of `gene_ids`, or as any symbol, alias or Ensembl ID the
        model knows; those that are missing are listed in a warning. Each costs one pass over the cells that contain it.
    {model}
    n_genes
        Number of genes that are predicted in place of each.
    {counts}
    {device}

    Returns
    -------
    One row per cell, masked gene and prediction, by cell and rank of the masked gene: `cell` as in
    ``adata.obs_names``, `gene`, its `position` (0 for the gene of highest rank), `true_rank` (1 if it is the most
    probable gene) and `true_probability` of it, and `rank`, `predicted` and `probability` of the prediction. Genes are
    named as in the index of the counts (``adata.var_names``, or ``adata.raw.var_names``), those that are not there by
    symbol or Ensembl ID. Probabilities are those among all tokens; special tokens are not predicted.

    Raises
    ------
    DataError
        If there are no counts, none of the genes is known, or `n_genes` cannot be used.
    ModelError
        If the model cannot be used, or has no head for masked genes.

    See Also
    --------
    score_masked_genes : how well the model foretells all genes of a cell.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:20].copy()
    >>> found = gf.tl.predict_masked_genes(adata, ["CD3D", "LYZ"], "mini", n_genes=3)
    >>> found.columns.tolist()
    ['cell', 'gene', 'position', 'true_rank', 'true_probability', 'rank', 'predicted', 'probability']
    """
    from scgeneformer._engine.masked import predict_masked
    from scgeneformer._engine.masks import masks_of_genes
    from scgeneformer.models._head import load_head

    check_whole(n_genes=n_genes)
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
    check_ranked(session.model.vocabulary, "gf.tl.predict_masked_genes", "Take a model of the rank-value encoding.")
    vocabulary, head = session.model.vocabulary, load_head(session.model)
    tokens = tokens_of_genes(session.source, genes)
    start = logg.info(f"predicting {len(tokens)} masked genes with {session.model.name}")
    choose, n_copies = partial(masks_of_genes, genes=tokens), _n_occurrences(session, tokens)
    more = {"genes": vocabulary.tokens, "top_k": int(n_genes)}
    found, _ = run_masked(session, head, "predict", predict_masked, choose, n_copies, **more)
    logg.info("    finished", time=start)
    return _frame(found, session)


def _n_occurrences(session: Session, tokens: np.ndarray) -> int:
    """How often the genes with these tokens occur in the cells, after truncation."""
    return sum(int(np.isin(block.ids, tokens).sum()) for _, block, _ in session.source.blocks())


def _frame(found: Predictions, session: Session) -> pd.DataFrame:
    """One row per mask and prediction."""
    n, k = found.top_token.shape
    names = _names(session)
    each = pd.DataFrame(
        {
            "cell": session.source.counts.adata.obs_names.to_numpy()[found.masked.cell],
            "gene": names[found.masked.token],
            "position": found.masked.position - session.model.vocabulary.n_lead,
            "true_rank": found.rank,
            "true_probability": found.probability,
        }
    )
    return (
        each.loc[each.index.repeat(k)]
        .assign(
            rank=np.tile(np.arange(1, k + 1), n),
            predicted=names[found.top_token.ravel()],
            probability=found.top_probability.ravel(),
        )
        .reset_index(drop=True)
    )


def _names(session: Session) -> np.ndarray:
    """Name of each token: in `var_names`, else its symbol, else its Ensembl ID; (n_tokens,) str objects."""
    vocabulary = session.model.vocabulary
    names = np.full(vocabulary.n_tokens, "", dtype=object)
    names[vocabulary.tokens] = np.where(vocabulary.symbols != "", vocabulary.symbols, vocabulary.ensembl_ids)
    tokens = session.source.genes.tokens[::-1]  # of genes that share a token the first gives the name
    names[tokens[tokens >= 0]] = session.source.counts.var.index.to_numpy()[::-1][tokens >= 0]
    return names

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.groups import find_groups, groups_and_rest
from scgeneformer._adata.training.predicted import most_probable
from scgeneformer._adata.var_tokens import Spread, tokens_of_var
from scgeneformer._adata.writer import Results, target_of, write
from scgeneformer._checks import check_whole
from scgeneformer._docs import shared_docs
from scgeneformer.tl._session import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer._adata.groups import Groups
    from scgeneformer._engine.gene_sums import GeneSums
    from scgeneformer.models import ModelLike
    from scgeneformer.models._classifier import Classifier
    from scgeneformer.tl._session import Session


@shared_docs
def classify_genes(
    adata: AnnData,
    classifier: ModelLike,
    *,
    groupby: str | Sequence[str] | None = None,
    min_cells: int = 1,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
    device: str | Sequence[str] = "auto",
    dtype: str = "auto",
    tokens_per_batch: int | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    r"""Tell the class of every gene with a fine-tuned model.

    The model gives every gene of every cell a probability of each class. Those of a gene are averaged over the cells
    that contain it; they are summed on the device, so that memory grows with the genes and not with the cells.

    Parameters
    ----------
    {cells}
    classifier
        What :func:`train_gene_classifier` returned or wrote, or the directory or place on the hub of a stock
        `BertForTokenClassification`, or a loaded model.
    groupby
        One or several columns of ``adata.obs``: also the mean over the cells of each group, where the context of the
        gene differs.
    min_cells
        Nothing is told of genes that are in fewer cells.
    {counts}
    {device}
    key_added
        Key instead of "geneformer_<label>".
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets, for the label that the model tells,

    `adata.var['geneformer_<label>' | key_added]` : categorical
        Class of the largest mean probability; missing for genes the model does not know, or in too few cells. Genes
        the classifier was trained on are told, too: what it tells of those is no test of it.
    `adata.var['geneformer_<label>_confidence']` : float32
        That probability.
    `adata.var['geneformer_<label>_n_cells']` : int32
        Cells that contain the gene, after truncation.
    `adata.varm['geneformer_<label>_probability']` : float32 (n_vars, n_classes)
        Mean probability of each class; NaN where nothing is told. Genes that share a token have the same.
    `adata.uns['geneformer_<label>']` : dict
        `classes`, in the order of the columns, and `params`.
    `adata.varm['geneformer_<label>_<groupby>_probability']` : float32 (n_vars, n_groups, n_classes)
        The same within each group, if `groupby` was given.
    `adata.varm['geneformer_<label>_<groupby>_n_cells']` : int32 (n_vars, n_groups)
        Cells of each group that contain the gene.
    `adata.uns['geneformer_<label>_<groupby>']` : dict
        `groups`, their names in the order of the axis, `labels`, `classes` and `params`.

    Raises
    ------
    ModelError
        If the model is no classifier of genes.
    DataError
        If the counts, genes or groups cannot be used. Nothing is written then.

    See Also
    --------
    train_gene_classifier : make a classifier.
    scgeneformer.get.gene_classification_df : the result as a table.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:60].copy()
    >>> names = adata.var_names.astype(str)
    >>> classes = {"respiration": names[names.str.match("NDUF|COX")], "surface": names[names.str.match(r"CD\d")]}
    >>> trained = gf.tl.train_gene_classifier(adata, classes, model="mini", n_folds=None, max_tokens=64)
    >>> gf.tl.classify_genes(adata, trained)
    >>> adata.varm["geneformer_gene_class_probability"].shape
    (765, 2)
    """
    from scgeneformer.models._classifier import GENES, load_classifier

    target = target_of(adata, copy, key_added)
    check_whole(min_cells=min_cells)
    session = open_session(
        adata,
        classifier,
        -1,
        counts_layer=counts_layer,
        use_raw=use_raw,
        gene_ids=gene_ids,
        device=device,
        dtype=dtype,
        tokens_per_batch=tokens_per_batch,
    )
    found = load_classifier(session.model, GENES)
    (task,) = found.tasks
    (key,) = keys.prediction_keys([task.label], key_added)
    groups = None if groupby is None else find_groups(adata, groupby, key=key)
    tokens = tokens_of_var(session.source)
    known = np.unique(tokens[tokens >= 0])
    slot_of_token = session.model.vocabulary.slots(known)
    start = logg.info(f"classifying genes with {session.model.name}")
    sums, n_tokens = _run(session, found, groups, slot_of_token, len(known))
    spread = Spread(np.where(tokens >= 0, slot_of_token[tokens], -1), min_cells)
    results = _of_all_cells(session, key, sums, spread, task.classes)
    if groups is not None:
        _add_groups(results, session, key, groups, groups.count(n_tokens > 0), sums, spread, task.classes)
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None


def _run(
    session: Session, classifier: Classifier, groups: Groups | None, slot_of_token: np.ndarray, n_slots: int
) -> tuple[GeneSums, np.ndarray]:
    """Sums for every group, cells without a label as one more; and the tokens of each cell."""
    from scgeneformer._engine.classification import class_sums

    codes, n_groups = groups_and_rest(groups, session.source.counts.n_obs)
    with session.running("classify genes") as (n_tokens, blocks, advance):
        sums = class_sums(
            blocks,
            session.berts,
            classifier.head,
            session.tokens_per_batch,
            codes,
            n_groups,
            slot_of_token,
            n_slots,
            advance,
        )
    return sums, n_tokens


def _of_all_cells(session: Session, key: str, sums: GeneSums, spread: Spread, classes: list[str]) -> Results:
    (layer,), n_cells = session.layers, sums.n_cells.sum(axis=0)
    probability = spread.fill(np.empty((spread.n_vars, len(classes)), dtype=np.float32), sums.of(layer), n_cells)
    params = session.params(min_cells=spread.min_cells)
    return Results(
        var={
            key: most_probable(probability, classes),
            keys.confidence_key(key): probability.max(axis=1),
            keys.n_cells(key): spread.counts(n_cells[None])[:, 0],
        },
        varm={keys.probability_key(key): probability},
        uns={key: {"classes": np.array(classes), "params": params}},
    )


def _add_groups(
    results: Results,
    session: Session,
    key: str,
    groups: Groups,
    n_cells: np.ndarray,
    sums: GeneSums,
    spread: Spread,
    classes: list[str],
) -> None:
    (layer,), n_groups, key = session.layers, len(groups.names), keys.group_key(key, groups.columns)
    values = np.empty((spread.n_vars, n_groups, len(classes)), dtype=np.float32)
    for group in range(n_groups):
        spread.fill(values[:, group], sums.of(layer, group), sums.n_cells[group])
    results.varm[keys.probability_key(key)] = values
    results.varm[keys.n_cells(key)] = spread.counts(sums.n_cells[:n_groups])
    results.uns[key] = {
        "groups": np.array(groups.names),
        "labels": groups.table(n_cells),
        "classes": np.array(classes),
        "params": session.params(min_cells=spread.min_cells, groupby=np.array(groups.columns)),
    }

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.training.predicted import most_probable
from scgeneformer._adata.training.truth import find_truth, judge
from scgeneformer._adata.writer import Results, target_of, warn_empty, write
from scgeneformer._docs import shared_docs
from scgeneformer.tl._session import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer.models import ModelLike
    from scgeneformer.models._classifier import Classifier
    from scgeneformer.tl._session import Session


@shared_docs
def classify(
    adata: AnnData,
    classifier: ModelLike,
    *,
    truth: str | None = None,
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
    """Tell the label of every cell with a fine-tuned model.

    Genes of `adata` that the model does not know are passed over, and genes that `adata` lacks count as not
    expressed, as in every other use of the model; :func:`scgeneformer.pp.check` says how many there are. The model
    gives every cell one of the labels it was trained on; a low confidence is the only sign of a cell of another kind.

    Parameters
    ----------
    {cells}
    classifier
        What :func:`train_classifier` returned or wrote, or the directory or place on the hub of a stock
        `BertForSequenceClassification` (``pytorch_model.bin`` is read as tensors only), or a loaded model.
    truth
        Column of ``adata.obs`` with the true labels: predictions are judged by them. Cells whose label the model does
        not know are left out of the metrics, and counted (`n_unseen`).
    {counts}
    {previous}
    {device}
    key_added
        Key instead of "geneformer_<label>"; with several labels they are appended to it.
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets, for each label that the model tells,

    `adata.obs['geneformer_<label>' | key_added]` : categorical
        Most probable label; missing for cells in which the model knows no gene.
    `adata.obs['geneformer_<label>_confidence']` : float32
        Its probability.
    `adata.obsm['geneformer_<label>_probability']` : float32 (n_obs, n_classes)
        Probabilities of all labels, NaN for cells in which the model knows no gene.
    `adata.uns['geneformer_<label>_params']` : dict
        `classes`, the labels in the order of the columns, the model and all else the predictions depend on.
    `adata.obs['geneformer_n_tokens']` : int32
        Tokens of each cell.
    `adata.uns['geneformer_<label>_truth']` : dict
        With `truth`: metrics of these predictions over all cells with a true label, as method "classify <name of the
        model>", in the form of :func:`train_classifier`; cells that it was trained on flatter it.

    Raises
    ------
    ModelError
        If the model is no classifier of cells.
    DataError
        If the counts or genes cannot be used, `truth` does not exist, or it shares no label with the classifier, or
        results would have the key of others. Nothing is written then.

    See Also
    --------
    train_classifier : make a classifier.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[::3].copy()
    >>> trained = gf.tl.train_classifier(adata, "cell_type", model="mini", max_tokens=64, epochs=1)
    >>> gf.tl.classify(adata, trained)
    >>> adata.obs["geneformer_cell_type"].cat.categories.size
    10
    """
    from scgeneformer._engine.classification import softmax
    from scgeneformer.models._classifier import CELLS, load_classifier

    target = target_of(adata, copy, key_added)
    session = open_session(
        adata,
        classifier,
        -1,
        counts_layer=counts_layer,
        use_raw=use_raw,
        gene_ids=gene_ids,
        previous_layer=previous_layer,
        device=device,
        dtype=dtype,
        tokens_per_batch=tokens_per_batch,
    )
    found = load_classifier(session.model, CELLS)
    names = keys.prediction_keys([task.label for task in found.tasks], key_added)
    true = None if truth is None else find_truth(adata, truth, found.tasks)
    start = logg.info(f"classifying cells with {session.model.name}")
    logits, n_tokens = _run(session, found)
    warn_empty(n_tokens, adata)
    results = Results(obs={keys.N_TOKENS: n_tokens})
    probabilities = softmax(logits, found.sizes)
    for key, task, probability in zip(names, found.tasks, probabilities, strict=True):
        results.obs[key] = most_probable(probability, task.classes)
        results.obs[keys.confidence_key(key)] = probability.max(axis=1)
        results.obsm[keys.probability_key(key)] = probability
        results.uns[keys.params_key(key)] = session.params(pooling=found.pooling, classes=np.array(task.classes))
    if true is not None:
        method = f"classify {session.model.name}"
        key = keys.truth_key(names[true.task])
        results.uns[key] = judge(adata, true, probabilities, key, method)
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None


def _run(session: Session, classifier: Classifier) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n_obs, n_classes) and tokens of each cell."""
    from scgeneformer._engine.classification import classify_cells
    from scgeneformer._engine.pooling import get_pooling

    vocabulary, budget = session.model.vocabulary, session.tokens_per_batch
    pooling = get_pooling(classifier.pooling, vocabulary)
    with session.running("classify") as (n_tokens, blocks, advance):
        logits = classify_cells(
            blocks, len(n_tokens), session.berts, classifier.head, vocabulary, pooling, budget, advance
        )
    return logits, n_tokens

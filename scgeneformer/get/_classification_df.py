from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer._adata.training.evaluation_frame import read_comparison

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def classification_df(adata: AnnData, label: str, *, per_class: bool = False) -> pd.DataFrame:
    """Read how methods compare on the cells that none of them was trained on.

    Parameters
    ----------
    adata
        After :func:`scgeneformer.tl.train_classifier`, :func:`scgeneformer.tl.train_gene_classifier` or
        :func:`scgeneformer.tl.probe`.
    label
        What the methods tell, or a key in `uns` such as "geneformer_cell_type_truth" of
        :func:`scgeneformer.tl.classify`.
    per_class
        Scores of each class in place of those over all.

    Returns
    -------
    DataFrame with a row per method, the one stored first on top, and the columns

    `accuracy`, `balanced_accuracy`
        Share of cells that are told right, and its mean over the classes.
    `macro_f1`, `auc`
        Mean over the classes of F1, and of the area under the ROC curve of the class against the rest.
    `log_loss`, `calibration_error`
        Mean of −log of the probability of the true class; mean difference of confidence and accuracy.
    `n_train`, `n_test`, `n_unseen`
        Cells that it was trained on, that it was judged on, and those whose class it does not know, which do not count.

    With ``per_class=True`` a row per method and class with `method`, `class`, `precision`, `recall`, `f1`, `auc` and
    `n`, the cells of the class.

    Raises
    ------
    MissingKeyError
        If no comparison is stored.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[::3].copy()
    >>> trained = gf.tl.train_classifier(adata, "cell_type", model="mini", max_tokens=64, epochs=1)
    >>> gf.get.classification_df(adata, "cell_type").index.tolist()
    ['fine-tuned']
    """
    found = read_comparison(adata, label)
    return (found.per_class if per_class else found.table).copy()

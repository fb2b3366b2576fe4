from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgeneformer._adata import keys
from scgeneformer._errors import DataError, MissingKeyError

if TYPE_CHECKING:
    from anndata import AnnData


def gene_classification_df(
    adata: AnnData, label: str = "gene_class", *, held_out: bool = False, sort_by: str | None = None
) -> pd.DataFrame:
    """Read classes of genes as a frame: those of all genes, or those told of the genes a classifier was judged on.

    Parameters
    ----------
    adata
        After :func:`scgeneformer.tl.classify_genes` or, with `held_out`, :func:`scgeneformer.tl.train_gene_classifier`.
    label
        What is told, or the key in `var`.
    held_out
        Read what was told, in cross-validation, of the genes whose class is known, in place of all genes.
    sort_by
        Class whose most probable genes come first; None sorts by the probability of the told class.

    Returns
    -------
    DataFrame with a row per gene of which something is told, and the columns

    `gene`
        Name in ``adata.var_names``, or as it was given to the training.
    `class`, `fold`
        With `held_out`: true class, and fold in which it was held out.
    `predicted`, `confidence`
        Class of the largest mean probability, and that probability.
    `n_cells`
        Cells that contain the gene.
    `probability_<class>`
        Mean over these cells of the probability of each class.

    Raises
    ------
    MissingKeyError
        If there is no such result.
    DataError
        If there is no class `sort_by`.

    See Also
    --------
    scgeneformer.tl.classify_genes, scgeneformer.tl.train_gene_classifier

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:30].copy()
    >>> names = adata.var_names.astype(str)
    >>> classes = {"respiration": names[names.str.match("NDUF|COX")], "MHC": names[names.str.match("HLA-")]}
    >>> trained = gf.tl.train_gene_classifier(adata, classes, model="mini", n_folds=None, max_tokens=64)
    >>> gf.tl.classify_genes(adata, trained)
    >>> gf.get.gene_classification_df(adata).columns.tolist()
    ['gene', 'predicted', 'confidence', 'n_cells', 'probability_respiration', 'probability_MHC']
    """
    frame, probability, classes = _held_out(adata, label) if held_out else _all(adata, label)
    if sort_by is not None and sort_by not in classes:
        raise DataError(f"sort_by={sort_by!r} does not exist; the classes are: {', '.join(map(repr, classes))}.")
    by = frame["confidence"].to_numpy() if sort_by is None else probability[:, classes.index(sort_by)]
    columns = [f"probability_{name}" for name in classes]
    table = pd.concat([frame, pd.DataFrame(probability, columns=columns)], axis=1)
    return table.iloc[np.argsort(-by, kind="stable")].reset_index(drop=True)


def _all(adata: AnnData, label: str) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    key = label if label in adata.var and label in adata.uns else keys.prediction_key(label)
    if key not in adata.var or keys.probability_key(key) not in adata.varm:
        raise MissingKeyError(f"adata.var[{key!r}] does not exist. Run gf.tl.classify_genes(adata, classifier) first.")
    frame = pd.DataFrame(
        {
            "gene": adata.var_names.to_numpy(str),
            "predicted": adata.var[key].to_numpy(),
            "confidence": adata.var[keys.confidence_key(key)].to_numpy(),
            "n_cells": adata.var[keys.n_cells(key)].to_numpy(),
        }
    )
    probability = np.asarray(adata.varm[keys.probability_key(key)])
    told = ~np.isnan(probability).any(axis=1)
    return frame[told].reset_index(drop=True), probability[told], [str(name) for name in adata.uns[key]["classes"]]


def _held_out(adata: AnnData, name: str) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    found = adata.uns.get(key := keys.evaluation_key(name))
    if found is None or "genes" not in found:
        raise MissingKeyError(
            f"adata.uns[{key!r}] holds no genes. Run gf.tl.train_gene_classifier(adata, classes) first."
        )
    columns = ["gene", "class", "fold", "predicted", "confidence", "n_cells"]
    frame = found["genes"].rename_axis("gene").reset_index()[columns]
    return frame, np.asarray(found["probability"]), [str(name) for name in found["classes"]]

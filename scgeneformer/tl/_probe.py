from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.counts import open_counts
from scgeneformer._adata.expression import expression_pca
from scgeneformer._adata.groups import find_groups
from scgeneformer._adata.representation import read_embedding
from scgeneformer._adata.training.evaluation import comparable, with_method
from scgeneformer._adata.training.labels import find_labels
from scgeneformer._adata.training.split import find_split
from scgeneformer._adata.writer import Results, target_of, write
from scgeneformer._checks import as_names, check_choice, check_whole
from scgeneformer._docs import shared_docs
from scgeneformer._errors import DataError
from scgeneformer._training.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData

    from scgeneformer._training.probes import Settings

PCA = "PCA"


@shared_docs
def probe(
    adata: AnnData,
    label: str,
    *,
    use_rep: str | Sequence[str] | None = None,
    methods: str | Sequence[str] = ("logistic",),
    split: str | None = None,
    split_by: str | Sequence[str] | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    n_folds: int | None = None,
    n_pcs: int = 50,
    n_neighbors: int = 15,
    C: float | None = None,
    seed: int = 0,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Tell a label from stored embeddings, and from PCA, by simple methods on held-out cells.

    With the same `split`, `split_by`, `fractions`, `n_folds` and `seed` as :func:`train_classifier` the cells are
    divided alike, and "fine-tuned" stands in the same table. PCA is always there: it is what fine-tuning and embeddings
    have to beat. It is fitted on the training cells only (counts per 10,000, log1p, the 2,000 most variable genes of
    the training cells), and the others are projected. Without test cells the validation cells are judged.

    Parameters
    ----------
    adata
        Cells × genes, with raw or log1p-normalised counts. Cells without a label are left out.
    label
        Column of ``adata.obs``.
    use_rep
        One or several keys of ``adata.obsm``; None takes all embeddings of cells stored as "X_geneformer...".
    methods
        "logistic" (multinomial logistic regression with an L2 penalty), "logistic_l1" (with an L1 penalty, that is a
        Laplace prior of the weights) or "knn" (vote of the nearest training cells). One or several.
    {split}
    n_folds
        Cross-validate: each cell is told by a model that was trained on the other folds, and all are judged. `split`
        then is a column with the numbers of the folds.
    n_pcs
        Number of principal components.
    n_neighbors
        Training cells that vote, for "knn".
    C
        Inverse strength of the penalty of logistic regression, on features standardized over the training cells. None
        takes that of 0.001, 0.01, 0.1 and 1 with the smallest log loss on the validation cells, or, where there are
        none or they are judged, on three folds of the training cells, which keep the groups of `split_by` whole.
    seed
        Of the split, and of what is random in the methods.
    counts_layer
        Layer with the counts for PCA (raw, or log1p-normalised); None takes ``adata.X``.
    use_raw
        Take the counts from ``adata.raw``.
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets

    `adata.uns['geneformer_<label>_evaluation']` : dict
        Scores of each method and embedding, such as "logistic X_geneformer" and "knn PCA", beside those that were
        judged on the same cells before; read by :func:`scgeneformer.get.classification_df`.

    Raises
    ------
    MissingKeyError
        If a column or an embedding does not exist.
    DataError
        If labels, split, embeddings or counts cannot be used. Nothing is written then.

    See Also
    --------
    train_classifier : what fine-tuning makes of it.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[::4].copy()
    >>> gf.tl.embed_cells(adata, model="mini")
    >>> gf.tl.probe(adata, "cell_type", methods="knn")
    >>> gf.get.classification_df(adata, "cell_type").index.tolist()
    ['knn X_geneformer', 'knn PCA']
    """
    from scgeneformer._training.probes import Settings
    from scgeneformer._training.scores import score

    target = target_of(adata, copy)
    chosen = _methods(methods, n_pcs, n_neighbors, C)
    labels = find_labels(adata, label)
    stored = _embeddings(adata, use_rep)
    found = find_split(adata, labels, split=split, split_by=split_by, fractions=fractions, n_folds=n_folds, seed=seed)
    units = None if split_by is None else find_groups(adata, split_by).codes
    whole = np.all([np.isfinite(values).all(axis=1) for values in stored.values()], axis=0) | (not stored)
    used = (found.parts >= 0) & whole
    if n := int((found.parts >= 0).sum() - used.sum()):
        logg.warning(f"{n} of {n + int(used.sum())} cells with a label have no embedding (NaN): left out")
    rounds = _rounds(found.parts, used, n_folds)
    _check_rounds(labels.codes, labels.classes, rounds)
    counts = open_counts(adata, counts_layer, use_raw)
    start = logg.info(f"probing {label}: {', '.join(chosen)} on {', '.join([*stored, PCA])}")
    settings = Settings(C, n_neighbors, seed)
    features: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        **{name: lambda _, values=values: values for name, values in stored.items()},  # type: ignore[misc]
        PCA: lambda train: expression_pca(counts, train, n_pcs),
    }
    told = _tell(features, chosen, labels.codes, len(labels.classes), rounds, units, settings)
    key = keys.evaluation_key(label)
    record = found.record_of(adata, labels)
    entry = comparable(adata, key, labels.classes, record)
    judged = np.any([one.told for one in rounds], axis=0)
    n_train = int(rounds[0].train.sum()) if n_folds is None else int(used.sum())
    for method, probability in told.items():
        scores = score(labels.codes[judged], probability[judged], labels.classes)
        entry = with_method(entry, labels.classes, record, method, scores, n_train=n_train)
        summary = scores.summary
        logg.info(f"    {method}: accuracy {summary['accuracy']:.3f}, macro F1 {summary['macro_f1']:.3f}")
    results = Results(uns={key: entry})
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None


@dataclass(frozen=True, eq=False)
class Round:
    """Cells of one training, each (n_obs,) bool: those that train, that C is chosen on, if any, and that are told."""

    train: np.ndarray
    validation: np.ndarray | None
    told: np.ndarray


def _methods(methods: str | Sequence[str], n_pcs: int, n_neighbors: int, strength: float | None) -> list[str]:
    """The methods asked for, and all numbers checked."""
    from scgeneformer._training.probes import METHODS

    check_whole(n_pcs=n_pcs, n_neighbors=n_neighbors)
    if strength is not None and not (isinstance(strength, int | float | np.number) and 0 < strength < np.inf):
        raise DataError(f"C={strength!r} must be a number above 0, or None.")
    chosen = list(dict.fromkeys(as_names(methods)))
    if not chosen:
        raise DataError("methods=[] names no method. Name at least one, such as methods='knn'.")
    for name in chosen:
        check_choice(METHODS, methods=name)
    return chosen


def _embeddings(adata: AnnData, asked: str | Sequence[str] | None) -> dict[str, np.ndarray]:
    """The embeddings by key, each (n_obs, d)."""
    if asked is None:
        names = [name for name in adata.obsm if name.startswith(keys.EMBEDDING) and np.ndim(adata.obsm[name]) == 2]
        if not names:
            logg.info(
                f"    no embedding is stored as {keys.EMBEDDING}: PCA alone. To add one: gf.tl.embed_cells(adata)"
            )
    else:
        names = [name for name in dict.fromkeys(as_names(asked)) if name != PCA]
    return {name: read_embedding(adata, name) for name in names}


def _rounds(parts: np.ndarray, used: np.ndarray, n_folds: int | None) -> list[Round]:
    """The trainings: one, or one per fold."""
    if n_folds is not None:
        return [Round(used & (parts != fold), None, used & (parts == fold)) for fold in range(n_folds)]
    train, validation, test = (used & (parts == part) for part in (TRAIN, VALIDATION, TEST))
    if test.any():
        return [Round(train, validation if validation.any() else None, test)]
    if not validation.any():
        raise DataError(
            "There are no test and no validation cells to judge the methods on. Give them a share: fractions=(0.8, "
            "0.1, 0.1)."
        )
    logg.info("    no test cells: the validation cells are judged")
    return [Round(train, None, validation)]


def _check_rounds(codes: np.ndarray, classes: list[str], rounds: list[Round]) -> None:
    from scgeneformer._training.splits import check_train

    for one in rounds:
        check_train(codes, one.train, classes, " once cells without an embedding are left out")


def _tell(
    features: dict[str, Callable[[np.ndarray], np.ndarray]],
    methods: list[str],
    codes: np.ndarray,
    n_classes: int,
    rounds: list[Round],
    units: np.ndarray | None,
    settings: Settings,
) -> dict[str, np.ndarray]:
    """Probabilities (n_obs, n_classes) under each method and embedding, NaN for cells that are not told."""
    from scgeneformer._training.probes import tell

    names = [f"{method} {name}" for name in features for method in methods]
    told = {name: np.full((len(codes), n_classes), np.nan) for name in names}
    for one in rounds:
        for name, values_of in features.items():
            values = values_of(one.train)
            for method in methods:
                probability, strength = tell(
                    method,
                    values,
                    codes,
                    one.train,
                    one.told,
                    validation=one.validation,
                    units=units,
                    settings=settings,
                )
                told[f"{method} {name}"][one.told] = probability
                if strength is not None:
                    logg.debug(f"    {method} {name}: C={strength:g}")
    return told

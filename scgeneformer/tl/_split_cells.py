from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.groups import find_groups
from scgeneformer._adata.training.labels import find_labels
from scgeneformer._adata.training.split import find_split
from scgeneformer._adata.writer import Results, target_of, write
from scgeneformer._checks import as_names
from scgeneformer._docs import shared_docs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer._adata.training.split import Split


@shared_docs
def split_cells(
    adata: AnnData,
    label: str | Sequence[str] | None = None,
    *,
    split_by: str | Sequence[str] | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    n_folds: int | None = None,
    seed: int = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Divide the cells into training, validation and test cells, or into folds.

    :func:`train_classifier` and :func:`probe` make the same split by themselves from the same parameters; this is for
    looking at it first, for changing it, or for using it elsewhere.

    Parameters
    ----------
    adata
        Cells × anything.
    label
        Column of ``adata.obs`` whose classes are divided alike, or several; each class has training cells. Cells
        without a label are in no part. None divides all cells, whatever they are.
    split_by
        Columns such as "donor": all cells of one donor go to the same part. Then the fractions are approached as
        nearly as whole donors allow.
    fractions
        Shares of training, validation and test cells.
    n_folds
        So many folds in place of parts.
    seed
        Of the split. It does not depend on the order of the rows.
    key_added
        Key instead of "geneformer_split", or "geneformer_fold" with `n_folds`.
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets

    `adata.obs['geneformer_split' | key_added]` : categorical
        "train", "validation" or "test"; with `n_folds` "0", "1", ... in ``adata.obs['geneformer_fold']``. Missing for
        cells without a label.
    `adata.uns['geneformer_split' | key_added]` : dict
        `params`: how the cells were divided, and a checksum of which cell is in which part.

    Raises
    ------
    MissingKeyError
        If a column does not exist.
    DataError
        If labels cannot be used, or the cells cannot be divided so: fewer donors than parts, a class that would have no
        training cell, cells without a donor. Nothing is written then.

    See Also
    --------
    train_classifier : takes the split as ``split="geneformer_split"``.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()
    >>> gf.tl.split_cells(adata, "cell_type")
    >>> adata.obs["geneformer_split"].value_counts().to_dict()
    {'train': 560, 'validation': 71, 'test': 69}
    """
    target = target_of(adata, copy, key_added)
    labels = None if label is None else [find_labels(adata, name) for name in dict.fromkeys(as_names(label))]
    found = find_split(adata, labels, split_by=split_by, fractions=fractions, n_folds=n_folds, seed=seed)
    units = None if split_by is None else find_groups(adata, split_by, asked="split_by").codes
    key = key_added or (keys.FOLD if found.n_folds else keys.SPLIT)
    table = _sizes(found, units)
    params = {**({} if labels is None else {"labels": [one.column for one in labels]}), **found.record}
    results = Results(obs={key: found.column}, uns={key: {"params": params}})
    write(target, results)
    logg.info(f"cells divided\n{table}", deep=f"added {results}")
    return target if copy else None


def _sizes(found: Split, units: object) -> str:
    """Cells, and units, of each part, as a small table."""
    frame = pd.DataFrame({"part": found.column, "unit": units}).dropna(subset="part")
    counted = frame.groupby("part", observed=False)["part"].size().to_frame("cells")
    if units is not None:
        counted["units"] = frame.groupby("part", observed=False)["unit"].nunique()
    counted["share"] = (counted["cells"] / counted["cells"].sum()).map("{:.1%}".format)
    return "\n".join(f"    {line}" for line in counted.rename_axis(None).to_string().splitlines())

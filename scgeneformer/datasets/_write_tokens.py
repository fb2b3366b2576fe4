from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanpy import logging as logg

from scgeneformer import models
from scgeneformer._adata import keys
from scgeneformer._adata.disk.arrow_columns import to_arrow
from scgeneformer._adata.disk.token_files import EXTRA, IDS, LENGTH, OBS_NAMES, check_readable
from scgeneformer._adata.disk.token_writer import check_folder, write_folder
from scgeneformer._adata.frames import in_memory
from scgeneformer._adata.kind import check_anndata
from scgeneformer._adata.tokens import open_tokens
from scgeneformer._docs import shared_docs
from scgeneformer._errors import DataError, MissingKeyError
from scgeneformer._optional import require
from scgeneformer._progress import progress

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from anndata import AnnData

    from scgeneformer.models import ModelLike

RESERVED = (IDS, LENGTH, OBS_NAMES)
OURS = (keys.N_GENES, keys.N_TOKENS)


@shared_docs
def write_tokens(
    adata: AnnData,
    path: str | os.PathLike[str],
    model: ModelLike | None = None,
    *,
    obs_columns: Sequence[str] | None = None,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write the rank-value encoding of every cell as a folder that the reference Geneformer reads.

    What its `TranscriptomeTokenizer` makes of the same counts (a folder `*.dataset` of the library datasets), for
    training and use there, or as a corpus that is larger than memory. Cells are encoded and written block by block;
    the folder appears when it is complete.

    Parameters
    ----------
    adata
        Cells × genes, with raw or log1p-normalised counts, or what :func:`read_tokens` gave.
    path
        The folder. The reference expects a name that ends in ``.dataset``.
    {model}
    obs_columns
        Columns of `adata.obs` to write beside the tokens; None writes all that hold text, numbers, truth values or
        times. Categories are written as text.
    {counts}
    overwrite
        Replace the folder if it holds tokens already.

    Returns
    -------
    None. Writes one row per cell, in the order of `adata`:

    `input_ids` : list of int32
        Tokens, special ones included, not padded.
    `length` : int64
        Number of tokens.
    `obs_names` : str
        Name of the cell, by which rows can be told: cells in which the model knows no gene are left out (with a
        warning), as in the reference, which cannot read them.

    Raises
    ------
    DataError
        If there are no counts, the genes are unknown or of another species, a column does not exist or cannot be
        written, or something is at `path` that is not to be replaced. Nothing is written then.
    ModelError
        If the model cannot be used.
    MissingExtraError
        If pyarrow is not installed (extra "datasets").

    See Also
    --------
    read_tokens : the other way round.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:20]
    >>> gf.datasets.write_tokens(adata, "pbmc.dataset", model="mini", obs_columns=["cell_type"])
    """
    require(*EXTRA)
    check_anndata(adata)
    target = Path(path).expanduser()
    check_folder(target, overwrite=overwrite)
    columns = _columns(adata, obs_columns)
    vocabulary = models.load_vocabulary(model)
    check_readable(vocabulary)
    source = open_tokens(adata, vocabulary, counts_layer=counts_layer, use_raw=use_raw, gene_ids=gene_ids)
    start = logg.info(f"writing tokens into {target}")
    with progress(adata.n_obs, "tokenize") as advance:
        replaced = overwrite or target.exists()  # an empty folder
        n = write_folder(target, source.counted()[1], columns, vocabulary, advance, overwrite=replaced)
    if n < adata.n_obs:
        logg.warning(f"{adata.n_obs - n} of {adata.n_obs} cells have no gene that the model knows: left out")
    logg.info("    finished", time=start, deep=f"{n:,} cells with the columns {', '.join([IDS, LENGTH, *columns])}")


def _columns(adata: AnnData, names: Sequence[str] | None) -> dict[str, Any]:
    """Names of the cells and the columns of `obs` to be written, as Arrow arrays."""
    if isinstance(names, str):
        raise DataError(f"obs_columns={names!r} must be a list of names, such as obs_columns=[{names!r}].")
    asked = [name for name in adata.obs if name not in OURS] if names is None else list(names)
    if missing := [name for name in asked if name not in adata.obs]:
        there = ", ".join(map(repr, adata.obs)) or "none"
        raise MissingKeyError(f"adata.obs[{missing[0]!r}] does not exist; the columns are: {there}.")
    obs = in_memory(adata.obs, asked)
    found = {name: None if name in RESERVED else to_arrow(obs[name]) for name in asked}
    if left_out := [name for name, column in found.items() if column is None]:
        if names is not None:
            raise DataError(
                f"adata.obs[{left_out[0]!r}] cannot be written: the names {', '.join(RESERVED)} are taken, and values "
                "must be text, numbers, truth values or times, of one kind. Make it text, under another name: "
                f"adata.obs['...'] = adata.obs[{left_out[0]!r}].astype(str)."
            )
        logg.warning(f"left out columns of adata.obs that cannot be written: {', '.join(left_out)}")
    names_of_cells = to_arrow(adata.obs_names.to_series().astype(str))
    return {OBS_NAMES: names_of_cells, **{name: column for name, column in found.items() if column is not None}}

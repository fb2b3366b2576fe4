from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.representation import open_representation
from scgeneformer._adata.writer import Results, target_of, write
from scgeneformer._checks import check_choice, check_whole
from scgeneformer._docs import shared_docs
from scgeneformer._errors import DataError
from scgeneformer._progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from anndata import AnnData

    from scgeneformer._adata.representation import Representation


@shared_docs
def pca(
    adata: AnnData,
    use_rep: str = keys.EMBEDDING,
    *,
    method: Literal["incremental", "probabilistic"] = "incremental",
    n_comps: int = 50,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Reduce an embedding of cells to principal components, block by block.

    The cells are read twice in blocks, once to find the components and once to project on them, from memory or from
    disk; memory does not grow with their number, the result aside. Values are centred, not scaled. Nothing is random.

    Parameters
    ----------
    adata
        Cells with a representation.
    use_rep
        Key of ``adata.obsm``, or else of ``adata.layers``; "X" for ``adata.X``. In `X` and layers the genes are the
        features, with the values as they are (normalise counts first); sparse ones are made dense block by block. It
        may be an array that stays on disk: a backed `X`, an HDF5 or zarr array, a dask array.
    method
        "incremental": :class:`sklearn.decomposition.IncrementalPCA` (Ross et al. 2008), for any number of features.
        Of up to 8 `n_comps` features it drops nothing and is exact; of more it carries 4 `n_comps` axes from block to
        block. "probabilistic": the maximum of the likelihood in closed form, from mean and covariance (Tipping & Bishop
        1999), exact, for at most 8192 features; scores are posterior means of the latent variables, and each cell has a
        log-likelihood.
    n_comps
        Number of components.
    key_added
        Key in `obsm`, `varm` and `uns` instead of those below. With "pca" scanpy's plots of PCA find the result.
    {copy}

    Returns
    -------
    None, or the copy if ``copy=True``. Sets

    `adata.obsm['<use_rep>_pca' | key_added]` : float32 (n_obs, n_comps)
        Scores: projections on the axes, or with ``method="probabilistic"`` posterior means, which are
        ``projection * sqrt(variance - noise_variance) / variance``, of a variance below 1 in every component. NaN for
        cells whose row holds a NaN, which are left out of the fit. ``X_pca`` where genes are the features.
    `adata.uns['<use_rep>_pca' | key_added]` : dict
        `variance` and `variance_ratio` (n_comps,), `total_variance`, `noise_variance` (mean of the variances in the
        other directions), `mean` (d,), `components` (d, n_comps), all float64, the divisor of variances n - 1;
        `params`. ``uns['pca']`` where genes are the features.
    `adata.varm['PCs' | key_added]` : float64 (n_vars, n_comps)
        The components, in place of `components`, where genes are the features.
    `adata.obs['<use_rep>_pca_log_likelihood' | '<key_added>_log_likelihood']` : float32
        Natural logarithm of the density of the cell, with ``method="probabilistic"``. ``pca_log_likelihood`` where
        genes are the features.

    Raises
    ------
    MissingKeyError
        If there is no such representation.
    DataError
        If it is no matrix of finite numbers or NaN, or has too few cells or features for `n_comps`, or too many
        features for `method`. Nothing is written then.

    See Also
    --------
    scanpy.pp.pca : all cells at once; ``chunked=True`` for an incremental PCA of `X`.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:100].copy()
    >>> gf.tl.embed_cells(adata, model="mini")
    >>> gf.tl.pca(adata, n_comps=10)
    >>> adata.obsm["X_geneformer_pca"].shape
    (100, 10)
    """
    from scgeneformer._engine.statistics.pca import fit, project, rows_per_block

    target = target_of(adata, copy, key_added)
    rep = open_representation(adata, use_rep)
    _check(rep, method, n_comps)
    names = keys.pca_keys(use_rep, rep.of_genes, key_added)
    start = logg.info(f"computing {method} PCA of {rep.name}: {rep.width} features, {n_comps} components")
    size = rows_per_block(rep.width)
    found = fit(method, (rows for _, rows in _read(rep, size, "fit")), rep.width, n_comps)
    scores, densities = project(method, found, _read(rep, size, "project"), rep.n_obs)
    if left_out := rep.n_obs - found.n_rows:
        logg.warning(f"{left_out} of {rep.n_obs} cells have no values (NaN) in {rep.name}: left out, NaN in the result")

    entry = {
        "params": {"method": method, "use_rep": use_rep, "n_comps": n_comps, "version": version("scgeneformer")},
        "variance": found.variance,
        "variance_ratio": found.variance_ratio,
        "total_variance": found.total_variance,
        "noise_variance": found.noise_variance,
        "mean": found.mean,
    }
    density = keys.density_key(names.uns)
    earlier = [("obs", density), ("varm", names.varm)]
    results = Results(obsm={names.obsm: scores}, uns={names.uns: entry}, removed=earlier)
    if rep.of_genes:
        results.varm[names.varm] = found.axes
    else:
        entry["components"] = found.axes
    if densities is not None:
        results.obs[density] = densities
    write(target, results)
    logg.info("    finished", time=start, deep=f"added {results}")
    return target if copy else None


def _check(rep: Representation, method: str, n_comps: int) -> None:
    """Refuse what can be told to be impossible before anything is read."""
    from scgeneformer._engine.statistics.pca import METHODS, check_n_comps

    check_whole(n_comps=n_comps)
    check_choice(METHODS, method=method)
    if rep.width > (most := METHODS[method].max_features):
        raise DataError(
            f"{rep.name} has {rep.width} features; method={method!r} needs their covariance matrix and takes at most "
            f"{most}. Use method='incremental', or take fewer features, such as "
            "adata[:, adata.var['highly_variable']].copy()."
        )
    check_n_comps(method, rep.n_obs, rep.width, n_comps)


def _read(rep: Representation, size: int, doing: str) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of all rows, with a progress bar."""
    with progress(rep.n_obs, doing) as advance:
        for start, rows in rep.blocks(size):
            yield start, rows
            advance(len(rows))

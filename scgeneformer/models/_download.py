"""Fetch a model into the hub cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer.models._fetch import Download, fetch_model

if TYPE_CHECKING:
    import os


def download(model: str | os.PathLike[str]) -> Download:
    """Fetch a model into the shared cache of the Hugging Face hub, or find it there.

    Files that are in the cache are not fetched again; if all are, no network is needed. Models known by name are
    pinned to a commit and their files are checked by SHA-256. ``HF_HOME``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE``
    are respected.

    Parameters
    ----------
    model
        Registry name or ``org/repo[/subfolder][@revision]``. A revision that was fetched once, "main" too, stays at
        that commit; name another commit to move on. A local directory is returned as it is.

    Returns
    -------
    Where the model is: a path-like record with `name`, `folder`, `dictionaries`, `repo` and `revision`.

    Raises
    ------
    ModelNotFoundError
        If the model is neither on the hub nor in the cache, or there is no network.
    ModelError
        If a file is not the published one.

    See Also
    --------
    available : models known by name, and which are in the cache.
    load : load a model; fetches it where needed.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> gf.models.download("mini").name
    'mini'
    """
    return fetch_model(model)

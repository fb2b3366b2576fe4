"""Write results into an AnnData, all at the end and all or none."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anndata import ImplicitModificationWarning
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.frames import drop
from scgeneformer._adata.kind import check_target
from scgeneformer._errors import DataError
from scgeneformer._publish import uninterrupted

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

SLOTS = ("obs", "var", "obsm", "varm", "varp", "layers", "uns")
NOTHING = object()  # in place of a value: there is none


@dataclass
class Results:
    """What one call found, by slot of the AnnData and key; and where an earlier call left what holds no longer.

    Of what is `removed`, as (slot, key), whatever this call writes itself stays, and some need not exist.
    """

    obs: dict[str, Any] = field(default_factory=dict)
    var: dict[str, Any] = field(default_factory=dict)
    obsm: dict[str, Any] = field(default_factory=dict)
    varm: dict[str, Any] = field(default_factory=dict)
    varp: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, Any] = field(default_factory=dict)
    uns: dict[str, Any] = field(default_factory=dict)
    removed: list[tuple[str, str]] = field(default_factory=list)

    def entries(self) -> list[tuple[str, str, Any]]:
        """All results as (slot, key, value)."""
        return [(slot, key, value) for slot in SLOTS for key, value in getattr(self, slot).items()]

    def __str__(self) -> str:
        return _listed([(slot, key) for slot, key, _ in self.entries()])


def write(adata: AnnData, results: Results) -> None:
    """Assign all results and remove what they replace; if one step fails, those before it are taken back.

    An interrupt waits until then: a view that becomes an object of its own is neither, halfway.
    """
    written = [(slot, key) for slot, key, _ in results.entries()]
    gone = [(slot, key, NOTHING) for slot, key in results.removed if (slot, key) not in written]
    before = []
    with uninterrupted(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitModificationWarning)  # results turn a view into an object of its own
        try:
            for slot, key, value in [*results.entries(), *gone]:
                before.append((slot, key, getattr(adata, slot).get(key, NOTHING)))
                _put(adata, slot, key, value)
        except BaseException:
            for slot, key, old in reversed(before):
                _put(adata, slot, key, old)
            raise
    existed = [(slot, key) for slot, key, old in before if old is not NOTHING]
    if overwritten := [place for place in existed if place in written]:
        logg.info(f"    overwritten: {_listed(overwritten)}")
    if removed := [place for place in existed if place not in written]:
        logg.info(f"    removed, of an earlier call: {_listed(removed)}")


def _put(adata: AnnData, slot: str, key: str, value: Any) -> None:
    """Assign an entry of a slot, or remove it if there is to be none."""
    if value is not NOTHING:
        getattr(adata, slot)[key] = value
    elif key in getattr(adata, slot):
        drop(getattr(adata, slot), key)


def _listed(places: list[tuple[str, str]]) -> str:
    return ", ".join(f"{slot}[{key!r}]" for slot, key in places)


def target_of(adata: AnnData, copy: bool, key_added: str | None = None) -> AnnData:
    """Where results go: `adata` itself or a copy of it.

    Raises
    ------
    DataError
        If it is no AnnData, or one that cannot hold results, or not be copied; or files cannot hold the key.
    """
    check_target(adata)
    if key_added is not None and (not isinstance(key_added, str) or not key_added or "/" in key_added):
        raise DataError(
            f"key_added={key_added!r} must be text, not empty and without '/': files cannot hold other keys. Leave it "
            "out for the usual key."
        )
    if copy and adata.isbacked:
        raise DataError(
            "copy=True needs the data in memory, and this AnnData is backed. Take it into memory: adata = "
            "adata.to_memory()."
        )
    return adata.copy() if copy else adata


def warn_empty(n_tokens: np.ndarray, adata: AnnData) -> None:
    """Warn, once, of cells in which the model knows no gene."""
    if n := int((n_tokens == 0).sum()):
        logg.warning(
            f"{n} of {adata.n_obs} cells have no count of a gene that the model knows: their results are empty (NaN). "
            f"To drop them: adata = adata[adata.obs[{keys.N_TOKENS!r}] > 0].copy()"
        )

"""What is stored beside a result, so that it can be told how it was made."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scgeneformer._adata.tokens import CellTokens
    from scgeneformer.models import Model


def result_params(model: Model, tokens: CellTokens, **more: Any) -> dict[str, Any]:
    """Model, weights, counts and package version, and whatever else the result depends on."""
    return {
        "model": model.name,
        "source": model.source,
        "revision": model.revision,
        "checksum": model.checksum,
        "version": version("scgeneformer"),
        **tokens.params,
        **more,
    }

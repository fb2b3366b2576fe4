"""Geneformer as a native part of a scanpy notebook."""

from importlib.metadata import version

from scgeneformer import datasets, get, models, pl, pp, tl
from scgeneformer._errors import DataError, GeneformerError, ModelError
from scgeneformer.settings import settings

__version__ = version("scgeneformer")
__all__ = [
    "DataError",
    "GeneformerError",
    "ModelError",
    "__version__",
    "datasets",
    "get",
    "models",
    "pl",
    "pp",
    "settings",
    "tl",
]

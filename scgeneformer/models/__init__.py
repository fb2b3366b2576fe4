"""Models: which there are, and how they get into memory."""

from scgeneformer._engine.statistics.gene_statistics import GeneStatistics
from scgeneformer._engine.value_bins import ValueBinned
from scgeneformer._training.recipe import Recipe
from scgeneformer.models._available import available
from scgeneformer.models._build_vocabulary import build_vocabulary
from scgeneformer.models._cache import cache_info, clear_cache
from scgeneformer.models._download import download
from scgeneformer.models._gene_statistics import gene_statistics
from scgeneformer.models._load import load
from scgeneformer.models._load_vocabulary import load_vocabulary
from scgeneformer.models._model import Model, ModelLike
from scgeneformer.models._recipes import recipes
from scgeneformer.models._save import save

__all__ = [
    "GeneStatistics",
    "Model",
    "ModelLike",
    "Recipe",
    "ValueBinned",
    "available",
    "build_vocabulary",
    "cache_info",
    "clear_cache",
    "download",
    "gene_statistics",
    "load",
    "load_vocabulary",
    "recipes",
    "save",
]

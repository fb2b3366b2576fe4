"""Models: which there are, and how they get into memory."""

from scgeneformer._training.recipe import Recipe
from scgeneformer.models._available import available
from scgeneformer.models._cache import cache_info, clear_cache
from scgeneformer.models._download import download
from scgeneformer.models._load import load
from scgeneformer.models._load_vocabulary import load_vocabulary
from scgeneformer.models._model import Model, ModelLike
from scgeneformer.models._recipes import recipes
from scgeneformer.models._save import save

__all__ = [
    "Model",
    "ModelLike",
    "Recipe",
    "available",
    "cache_info",
    "clear_cache",
    "download",
    "load",
    "load_vocabulary",
    "recipes",
    "save",
]

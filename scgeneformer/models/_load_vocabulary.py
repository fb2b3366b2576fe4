"""Load the vocabulary of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scgeneformer.models._locate import locate_vocabulary
from scgeneformer.models._model import Model, ModelLike
from scgeneformer.models._vocabulary import get_vocabulary

if TYPE_CHECKING:
    import os

    from scgeneformer._engine.vocabulary import Vocabulary


def load_vocabulary(
    model: ModelLike | None = None, *, dictionaries: str | os.PathLike[str] | None = None
) -> Vocabulary:
    """Load the genes and special tokens of a model, not its weights.

    Parameters
    ----------
    model
        As for :func:`load`. Of a model on the hub only config and dictionaries are fetched.
    dictionaries
        As for :func:`load`.

    Returns
    -------
    The vocabulary, the same object that the loaded model has.

    Raises
    ------
    ModelNotFoundError
        If the model is not on this machine and cannot be fetched.
    ModelError
        If the name is unknown, a file is damaged, or vocabulary and config do not fit each other.

    See Also
    --------
    load : load the whole model.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> gf.models.load_vocabulary("mini").special["<pad>"]
    0
    """
    if isinstance(model, Model):
        return model.vocabulary
    from scgeneformer.settings import settings

    return get_vocabulary(*locate_vocabulary(settings.model if model is None else model, dictionaries))

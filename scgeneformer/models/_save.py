"""Save a model as a directory of ours."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scanpy import logging as logg

from scgeneformer._engine.vocabulary import ALIASES_FILE, GENES_FILE, META_FILE, write_vocabulary
from scgeneformer._errors import ModelError
from scgeneformer._publish import uninterrupted
from scgeneformer.models._file_tensors import check_file, file_tensors
from scgeneformer.models._geneformer import CONFIG_FILE, WEIGHT_FILES
from scgeneformer.models._load import load
from scgeneformer.models._model import Model, ModelLike

if TYPE_CHECKING:
    from collections.abc import Iterator

WEIGHTS_FILE = WEIGHT_FILES[0]
CARD_FILE, METRICS_FILE = "README.md", "metrics.json"  # of models that were trained here
OURS = (CONFIG_FILE, GENES_FILE, META_FILE, ALIASES_FILE, CARD_FILE, METRICS_FILE, *WEIGHT_FILES)


def save(model: ModelLike, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Save a model as a directory that needs nothing else.

    Writes `config.json`, `model.safetensors` (all tensors of the source, heads included, in its dtype), `genes.tsv`,
    `geneformer.json` and, where there are aliases, `aliases.tsv`. The files are written beside `folder` and moved
    into place when all are complete.

    Parameters
    ----------
    model
        A loaded model, or anything that :func:`load` takes.
    folder
        Where to save it; created.
    overwrite
        Whether `folder` may be a model directory already. Its model files are replaced, others left alone.

    Returns
    -------
    The directory.

    Raises
    ------
    ModelError
        If `folder` holds anything and may not be overwritten, or is no model directory.

    See Also
    --------
    load : load it again.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> folder = gf.models.save("mini", "my_model")
    >>> gf.models.load(folder, device="cpu")
    Model my_model: 6 blocks, width 128, 3,366,016 parameters, 18,033 genes, float32 on cpu
    """
    target = Path(folder).expanduser()
    check_target(target, overwrite)
    loaded = model if isinstance(model, Model) else load(model, device="cpu")
    with written_beside(target) as fresh:
        _write(loaded, fresh)
    return target


def check_target(folder: Path, overwrite: bool) -> None:
    """Refuse a folder in which saving would destroy something."""
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file; name a directory to save the model in.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ModelError(f"{folder} is not empty. Name another directory, or replace the model in it: overwrite=True.")
    if not (folder / CONFIG_FILE).is_file():
        raise ModelError(f"{folder} holds files but no model ({CONFIG_FILE}); it is not overwritten. Name another one.")


@contextmanager
def written_beside(folder: Path) -> Iterator[Path]:
    """Give a fresh directory, on the disk of `folder`, whose files take their place in it at the end, if all went well.

    An interrupt waits until all of them have. A process that is killed meanwhile leaves no config, and so no model,
    rather than the config of one and the weights of another.
    """
    near = folder if folder.exists() else folder.parent  # a directory that is there may be a disk of its own
    near.mkdir(parents=True, exist_ok=True)
    fresh = near / f".{folder.name}.new"
    shutil.rmtree(fresh, ignore_errors=True)  # of a process that was killed
    fresh.mkdir()
    try:
        yield fresh
        if not folder.exists():
            fresh.rename(folder)
            return
        with uninterrupted():
            (folder / CONFIG_FILE).unlink(missing_ok=True)
            for name in reversed(OURS):  # the config last
                if (fresh / name).exists():
                    os.replace(fresh / name, folder / name)
                elif name != CARD_FILE:  # it may be the user's own
                    (folder / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write(model: Model, folder: Path) -> None:
    if model.files is None:
        write_tensors(model.bert.state_dict(), folder)
        config = model.bert.config.to_dict()
    else:
        _copy_weights(model, folder)
        config = model.files.layout.read_config(model.files.config)
        for name in (CARD_FILE, METRICS_FILE):
            if (path := model.files.folder / name).is_file():
                _copy_own(path, folder / name)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    origin = {"source": model.name, "revision": model.revision, "checksum": model.checksum}
    record = {**{key: value for key, value in origin.items() if value}, **model.vocabulary.record}
    write_vocabulary(replace(model.vocabulary, record=record), folder)


def _copy_own(path: Path, target: Path) -> None:
    """Copy a file of a model, unless it is a link out of its directory, and so perhaps to something private."""
    real, folder = path.resolve(), path.parent.resolve()
    from_hub = real.parent.name == "blobs" and real.parents[1] in folder.parents
    if from_hub or real.is_relative_to(folder):
        shutil.copyfile(path, target)
    else:
        logg.warning(f"{path} is a link out of the model's directory, to {real}: not copied")


def _copy_weights(model: Model, folder: Path) -> None:
    weights = model.files.weights  # type: ignore[union-attr]
    if weights.name == WEIGHTS_FILE:
        check_file(model)
        shutil.copyfile(weights, folder / WEIGHTS_FILE)
    else:
        write_tensors(file_tensors(model), folder)


def write_tensors(tensors: dict, folder: Path) -> None:
    """Write tensors by name as `model.safetensors`."""
    from safetensors.torch import save_file

    apart = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(apart, folder / WEIGHTS_FILE, metadata={"format": "pt"})

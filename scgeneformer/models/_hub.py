"""Single files from the Hugging Face hub, through its shared cache; its errors turned into ours."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scgeneformer._errors import ModelError, ModelNotFoundError
from scgeneformer.models._checksum import sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scgeneformer.models._registry import HubFile

_NO_NETWORK = (
    "{what} is not in the hub cache ({cache}) and cannot be fetched: the hub does not answer, or HF_HUB_OFFLINE is "
    "set. On a machine with network run `scgeneformer download {name}` and copy that machine's hub cache here, or let "
    'HF_HOME point to a copy. model="mini" works now, without network.'
)
_FAILED = (
    "Fetching {what} failed ({error}). Nothing incomplete was kept: call again to go on with the files that are "
    'still missing. model="mini" works now, without network.'
)
_EXPLANATIONS = (  # the first that fits; subclasses stand before their bases
    (
        "RepositoryNotFoundError",
        "The hub has no repository {repo}, or it is private. Check the spelling; for a private one log in "
        "(`hf auth login`).",
    ),
    (
        "RevisionNotFoundError",
        "{repo} on the hub has no revision {revision!r}. Name a branch, a tag or a full commit that exists.",
    ),
    ("LocalEntryNotFoundError", _NO_NETWORK),
    ("ConnectionError", _NO_NETWORK),  # of Python, of requests, and of the hub's offline mode
    ("ConnectError", _NO_NETWORK),  # of httpx
    ("TimeoutException", _NO_NETWORK),
    ("Timeout", _NO_NETWORK),  # of requests
    ("EntryNotFoundError", "{repo} on the hub, revision {revision}, has no file {path}. Check the subfolder."),
)


def fetch(name: str, repo: str, path: str, revision: str, *, cached_only: bool = False) -> Path:
    """Fetch one file, from the hub cache where it is there.

    Parameters
    ----------
    name
        The model it is for, named in errors.
    repo, path, revision
        The file.
    cached_only
        Whether to leave the network alone.
    """
    from huggingface_hub import hf_hub_download

    with explained(name, repo, path, revision):
        return Path(hf_hub_download(repo, path, revision=revision, local_files_only=cached_only))


def cached(repo: str, path: str, revision: str) -> Path | None:
    """Return where a file is in the hub cache, or None; without network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, path, revision=revision)
    return Path(found) if isinstance(found, str) else None


def list_folder(name: str, repo: str, folder: str, revision: str) -> tuple[str, list[str]]:
    """Ask the hub which commit `revision` is, and which files lie directly in `folder` there."""
    from huggingface_hub import HfApi

    with explained(name, repo, folder, revision):
        info = HfApi().model_info(repo, revision=revision)
    prefix = f"{folder}/" if folder else ""
    paths = [sibling.rfilename for sibling in info.siblings or []]
    names = [path.removeprefix(prefix) for path in paths if path.startswith(prefix)]
    return str(info.sha), [file for file in names if "/" not in file]


def verify(path: Path, expected: HubFile) -> None:
    """Check a cached file; one that is not what it must be is removed from the cache.

    Raises
    ------
    ModelError
        If its SHA-256 is another one.
    """
    from huggingface_hub import constants

    if (found := sha256(path)) == expected.sha256:
        return
    size = path.stat().st_size
    blob = path.parent / path.readlink() if path.is_symlink() else path
    path.unlink()
    if blob.parent.resolve().is_relative_to(Path(constants.HF_HUB_CACHE).resolve()):  # a link may lead anywhere
        blob.unlink(missing_ok=True)
    raise ModelError(
        f"{path} is not the published file: SHA-256 {found} ({size:,} bytes) instead of {expected.sha256} "
        f"({expected.bytes:,} bytes). It was removed from the cache; call again to fetch it anew. If that repeats, the "
        "mirror or proxy in between (HF_ENDPOINT) alters files."
    )


@contextmanager
def explained(name: str, repo: str, path: str, revision: str) -> Iterator[None]:
    """Turn any error of the hub client into one of ours."""
    from huggingface_hub import constants

    try:
        yield
    except Exception as error:  # its HTTP library, and so the errors, differ between versions
        if isinstance(error, ModelError):
            raise
        kinds = [kind.__name__ for kind in type(error).__mro__]
        text = next((text for kind, text in _EXPLANATIONS if kind in kinds), _FAILED)
        message = text.format(
            what=f"{name} ({path})" if path else name,
            name=name,
            repo=repo,
            path=path,
            revision=revision,
            cache=constants.HF_HUB_CACHE,
            error=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
        )
        raise ModelNotFoundError(message) from error

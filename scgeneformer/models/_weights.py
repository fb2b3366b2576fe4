"""Read weights and build the encoder around them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from scgeneformer._errors import ModelError
from scgeneformer._foreign import stored_members

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import BertConfig, BertModel

READS: Counter[str] = Counter()
"""How often each weight file was truly read, for tests."""

PREFIX = "bert."
MOST_HEADER = 4 * 2**20  # bytes of names and shapes; a block of the encoder takes 2,000
LEAST_PER_BLOCK = 8  # tensors of a block; it has 16
IGNORED = ("position_ids", "token_type_ids")  # constants that older transformers saved along
BUFFERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "position_ids": lambda like: like.new_ones(like.shape).cumsum(-1) - 1,
    "token_type_ids": lambda like: like.new_zeros(like.shape),
}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a weight file, heads included; executes nothing that is in it.

    The tensors of a safetensors file are views of the mapped file: copy what is to stay.
    """
    READS[str(path.resolve())] += 1
    return (_read_safetensors if path.suffix == ".safetensors" else _read_bin)(path)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    try:
        _check_header(path)
        return load_file(path)
    except Exception as error:  # a damaged or hostile file can raise anything
        raise ModelError(
            f"{path} is not a whole safetensors file ({error}; it has {path.stat().st_size:,} bytes). Fetch or copy it "
            "again."
        ) from error


def _check_header(path: Path) -> None:
    """Refuse a header that takes more memory than one of names and shapes has a use for."""
    with open(path, "rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
    if n_bytes > MOST_HEADER:
        raise ValueError(f"its header claims {n_bytes:,} bytes, and at most {MOST_HEADER:,} are read")


def _read_bin(path: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        _check_archive(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle can raise anything
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path} was refused or is damaged: torch reads no tensors from it without executing what it holds "
            f"({first}). Nothing in it was executed. Take the model from a source you trust, as model.safetensors."
        ) from error
    if not isinstance(tensors, Mapping) or not all(_is_plain(*item) for item in tensors.items()):
        raise ModelError(f"{path} holds no dictionary of tensors.")
    if sum(t.numel() * t.element_size() for t in tensors.values()) > 2 * path.stat().st_size:  # decoders are tied
        raise ModelError(
            f"{path} was refused: its tensors are views that stand for more numbers than it holds. Save them each on "
            "its own, as model.safetensors."
        )
    return dict(tensors)


def _check_archive(path: Path) -> None:
    """Refuse what unpacks to more than the file, and pickles of more than names and shapes."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":
            raise ValueError("it is no archive, as torch has written them since version 1.6")
        members = stored_members(file)
    if any(n_bytes > MOST_HEADER for name, n_bytes in members.items() if name.endswith(".pkl")):
        raise ValueError(f"its pickle has more than {MOST_HEADER:,} bytes")


def _is_plain(name: object, tensor: object) -> bool:
    import torch

    dense = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
    return dense and isinstance(name, str)


def build_bert(
    config: BertConfig, tensors: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype, origin: str
) -> BertModel:
    """Build the encoder from tensors, each copied once, to its final place and type.

    Parameters
    ----------
    config
        What to build.
    tensors
        Weights by name, with or without the prefix ``bert.``; poolers and heads are left out.
    device, dtype
        Where the weights go, and as what.
    origin
        Where the weights are from, named in errors.
    """
    import torch

    own = _encoder_tensors(tensors)
    bert = _empty_bert(config, own, origin)
    _check(own, bert.state_dict(), origin)
    bert.load_state_dict(
        {name: own[name].detach().to(device=device, dtype=dtype, copy=True) for name in bert.state_dict()}, assign=True
    )
    for name, make in BUFFERS.items():
        if (buffer := getattr(bert.embeddings, name, None)) is not None:
            like = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
            bert.embeddings.register_buffer(name, make(like), persistent=False)
    return bert.eval().requires_grad_(False)


def _empty_bert(config: BertConfig, own: Mapping[str, torch.Tensor], origin: str) -> BertModel:
    """The encoder without memory for its weights; its blocks, which take some, are no more than its tensors."""
    import torch

    from scgeneformer._engine.encoder import new_bert

    if config.num_hidden_layers > len(own) // LEAST_PER_BLOCK:
        raise ModelError(
            f"config.json asks for {config.num_hidden_layers:,} blocks, and {origin} holds {len(own):,} tensors of an "
            "encoder. The two belong to different models."
        )
    try:
        with torch.device("meta"):
            return new_bert(config)
    except Exception as error:  # sizes beyond all numbers
        raise ModelError(f"config.json beside {origin} describes no encoder that can be built: {error}.") from error


def _encoder_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if any(name.startswith(PREFIX) for name in tensors):
        tensors = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    kept = (name for name in tensors if name.startswith(("embeddings.", "encoder.")) and not name.endswith(IGNORED))
    return {name: tensors[name] for name in kept}


def _check(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], origin: str) -> None:
    """Compare every name and shape with what the config asks for."""
    if missing := [name for name in expected if name not in found]:
        raise ModelError(
            f"{origin} lacks the tensor {missing[0]} ({len(missing)} of the encoder's {len(expected)} are missing). "
            "It is incomplete, or config.json belongs to another model."
        )
    if extra := [name for name in found if name not in expected]:
        raise ModelError(
            f"{origin} holds the tensor {extra[0]}, for which config.json has no place ({len(extra)} such tensors). "
            "config.json belongs to another model."
        )
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape or not found[name].is_floating_point():
            raise ModelError(
                f"The tensor {name} of {origin} is {tuple(found[name].shape)} {found[name].dtype}; config.json asks "
                f"for {tuple(tensor.shape)} floating-point numbers. The two belong to different models."
            )

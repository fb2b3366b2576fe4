"""Which device and which number type a model runs with."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from scgeneformer._errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

DTYPES = ("float32", "bfloat16", "float16")
TF32 = "tf32"  # float32 weights, matrix products of CUDA devices in TensorFloat-32
AMPERE = (8, 0)  # the first CUDA generation that computes in bfloat16


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn `device` into a device of this machine.

    Parameters
    ----------
    device
        "auto" (CUDA where there is one, else CPU), "cpu", "cuda", "cuda:1" or a torch device.

    Returns
    -------
    The device; CUDA devices carry their number.

    Raises
    ------
    ModelError
        If there is no such device.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind, index = (found := torch.device(device)).type, found.index
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"device={device!r} is not understood; it is 'auto', 'cpu', 'cuda' or 'cuda:1'.") from error
    if kind == "cpu":
        return torch.device("cpu")
    if kind != "cuda":
        raise ModelError(f"device={str(device)!r} is not supported; it is 'auto', 'cpu', 'cuda' or 'cuda:1'.")
    if (n := torch.cuda.device_count()) == 0:
        raise ModelError(
            f"device={str(device)!r}: torch {torch.__version__} sees no CUDA device. Use device='cpu', or install a "
            "CUDA build of torch and check the driver."
        )
    index = torch.cuda.current_device() if index is None else index
    if index >= n:
        names = ", ".join(f"'cuda:{i}'" for i in range(n))
        raise ModelError(f"device={str(device)!r} does not exist; this machine has {names}.")
    return torch.device("cuda", index)


def resolve_devices(device: str | torch.device | Sequence[str | torch.device] = "auto") -> list[torch.device]:
    """Turn `device` into one or several devices of this machine.

    Parameters
    ----------
    device
        As for :func:`resolve_device`, or a list of such, or "cuda:all" for every CUDA device.
    """
    import torch

    if device == "cuda:all":
        device = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or "cuda"  # "cuda" gives the error
    several = [device] if isinstance(device, str | torch.device) else list(device)
    if not several:
        raise ModelError("device=[] names no device. Name at least one, such as device='cpu'.")
    return [resolve_device(one) for one in several]


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Turn `dtype` into the torch dtype to compute with on `device`.

    Parameters
    ----------
    dtype
        "auto" (CUDA: bfloat16 where the device computes in it, else float16; CPU: float32), "float32", "bfloat16",
        "float16", a torch dtype of these, or "tf32" on CUDA (float32, see :func:`matmul_precision`).
    device
        The device, as :func:`resolve_device` returns it.
    """
    import torch

    name = str(dtype).removeprefix("torch.")
    if name == "auto" and device.type == "cuda":
        name = "bfloat16" if torch.cuda.get_device_capability(device) >= AMPERE else "float16"
    elif name == "auto":
        name = "float32"
    if name == TF32:
        if device.type != "cuda":
            raise ModelError(f"dtype='tf32' is for CUDA devices, not for {device}. Use dtype='bfloat16' or 'float32'.")
        name = "float32"
    if name not in DTYPES:
        names = ", ".join(map(repr, (*DTYPES, TF32)))
        raise ModelError(f"dtype={str(dtype)!r} is not supported; it is 'auto', {names}.")
    return getattr(torch, name)


@contextmanager
def matmul_precision(dtype: str | torch.dtype) -> Iterator[None]:
    """Let float32 matrix products on CUDA use TensorFloat-32 inside the block if `dtype` is "tf32"."""
    import torch

    if dtype != TF32:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on `device`, torch's own unused blocks included; None if it cannot be told."""
    import torch

    if device.type == "cpu":
        return _available()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def _available() -> int | None:
    """Bytes that can be had without swapping, as Linux tells them."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None

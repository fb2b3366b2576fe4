"""What a forward pass costs: floating-point operations, this machine's rate, a batch size that fits."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from scanpy import logging as logg

from scgeneformer._checks import check_whole
from scgeneformer.settings import settings

if TYPE_CHECKING:
    from transformers import BertModel

CPU_TOKENS_PER_BATCH = 4096  # activations of this size stay out of the way of fresh memory, whose first touch is slow
CUDA_TOKENS_PER_BATCH = 131_072  # a small model is held up by queueing its kernels; more cells share them
CPU_PART = 3e13  # floating-point operations that are kept together on a CPU: a few minutes of an ordinary one
LARGEST_PART = 2**20  # cells
EMULATED = 5e9  # floating-point operations per second; what computes in half precision has ten times as many
LONG_SECONDS = 600  # from here on the faster choices are named, as a warning
EFFICIENCY, EFFICIENCY_HALF = 0.6, 0.3  # of the matrix-multiply rate, as benchmarks find it on CPUs, with some reserve


def flops_per_cell(bert: BertModel, depth: int, n_tokens: np.ndarray) -> np.ndarray:
    """Floating-point operations of `depth` blocks for cells of `n_tokens` tokens.

    Per block and token 2 (4 d² + 2 d f) in the linear maps and 4 n d in the two products of attention, with
    d the width, f the feed-forward width and n the tokens of the cell.
    """
    d, f = bert.config.hidden_size, bert.config.intermediate_size
    n = n_tokens.astype(float)
    return depth * n * (2 * (4 * d * d + 2 * d * f) + 4 * n * d)


def choose_tokens_per_batch(bert: BertModel, asked: int | None) -> int:
    """Tokens of one forward pass: as asked, or enough to keep the device busy without filling its memory."""
    asked = settings.tokens_per_batch if asked is None else asked
    if asked is not None:
        check_whole(tokens_per_batch=asked)
        return int(asked)
    if bert.device.type != "cuda":
        return CPU_TOKENS_PER_BATCH
    free, _ = torch.cuda.mem_get_info(bert.device)
    per_token = 4 * (12 * bert.config.hidden_size + 2 * bert.config.intermediate_size)  # bytes, generously
    return int(min(CUDA_TOKENS_PER_BATCH, max(4096, 0.5 * free / per_token)))


def cells_per_part(bert: BertModel, depth: int) -> int:
    """Cells whose results are stored together by a run that can be resumed; on CUDA whole blocks take seconds.

    It depends on the model alone, not on the speed of the machine, so that two runs have the same parts.
    """
    if bert.device.type == "cuda":
        return LARGEST_PART
    longest = float(flops_per_cell(bert, depth, np.array(bert.config.max_position_embeddings)))
    return 2 ** int(np.log2(np.clip(CPU_PART / max(longest, 1.0), 1, LARGEST_PART)))


@cache
def matmul_rate(device: str, dtype: torch.dtype, width: int) -> float:
    """Floating-point operations per second of this device in a matrix product of a block's shape, the best of ten.

    A few rows are tried first: where the processor does not compute in `dtype` but emulates it, they tell enough.
    """
    best = 0.0
    for rows, repeats in ((64, 4), (4096, 11)):  # the first of each warms up
        a, b = torch.ones(rows, width, dtype=dtype, device=device), torch.ones(width, width, dtype=dtype, device=device)
        for _ in range(repeats):
            start = time.perf_counter()
            (a @ b)[0, 0].item()  # waits for the device
            seconds = time.perf_counter() - start
            best = max(best, 2 * rows * width * width / seconds)
        if dtype != torch.float32 and best < EMULATED:
            break
    return best


def announce(
    bert: BertModel,
    depth: int,
    sample_lengths: np.ndarray,
    n_cells: int,
    name: str,
    passes: np.ndarray | int = 1,
) -> float:
    """Say how long the embedding will take; returns the estimate in seconds.

    Parameters
    ----------
    bert
        The encoder.
    depth
        Blocks that are run.
    sample_lengths
        Tokens of a sample of the cells.
    n_cells
        Cells in all.
    name
        Of the model.
    passes
        How often each cell of the sample is run.
    """
    rate = matmul_rate(str(bert.device), bert.dtype, bert.config.hidden_size)
    costs = flops_per_cell(bert, depth, sample_lengths) * passes
    per_cell = float(costs.mean()) if len(costs) else 0.0
    efficiency = EFFICIENCY if bert.dtype == torch.float32 else EFFICIENCY_HALF
    seconds = n_cells * per_cell / (efficiency * rate)
    if bert.device.type == "cpu" and bert.dtype != torch.float32:
        whole = matmul_rate("cpu", torch.float32, bert.config.hidden_size)
        if whole > rate:
            logg.warning(
                f"this processor is {whole / rate:.0f} times slower in {str(bert.dtype)[6:]} than in float32: "
                "use dtype='float32'"
            )
    line = f"{n_cells:,} cells with {name} on {bert.device} in {str(bert.dtype)[6:]} take about {readable(seconds)}"
    if seconds < LONG_SECONDS or bert.device.type != "cpu":
        logg.info(f"    {line}")
    else:
        faster = matmul_rate("cpu", torch.bfloat16, bert.config.hidden_size) > 1.5 * rate
        choices = ["dtype='bfloat16'"] if faster and bert.dtype == torch.float32 else []
        choices += ["a GPU", "a smaller model ('V1-10M'; 'mini' to try things out)", "a subset of the cells"]
        logg.warning(f"{line}. Faster: {', '.join(choices)}.")
    return seconds


def readable(seconds: float) -> str:
    """Duration in the unit a person would use."""
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    whole = max(1, round(seconds))
    return f"{whole} second{'s' * (whole > 1)}"

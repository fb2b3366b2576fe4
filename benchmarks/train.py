"""Fine-tuning: cells per second of packed batches beside the reference's way, padded to the longest cell of the batch.

    python benchmarks/train.py [--shape V1-10M] [--cells 48] [--lengths uniform|FILE.h5ad] [--dtype float32|bfloat16]

Whole training steps (forward, loss, backward, AdamW) of a classifier of cells, the same model shape, random weights and
batch size, in turn in one process; rates are medians over `--rounds` rounds, ratios medians of ratios within a round:

- ours: packed, batches of cells in random order;
- reference, grouped: the stock `BertForSequenceClassification`, SDPA, batches of cells of similar length
  (`group_by_length`, what the reference asks of Trainer), each padded to its longest cell;
- reference, random: the same with batches in random order.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from embed import SHAPES, cell_lengths, config, padded, vocabulary, wait_for
from transformers import BertForSequenceClassification, BertModel

from scgeneformer._engine.class_head import ClassHead
from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.tokens import offsets_of
from scgeneformer._training.dataset import TokenDataset, collate
from scgeneformer._training.network import Network
from scgeneformer._training.optimizer import freeze
from scgeneformer._training.task import CellTask

CLASSES = 10


def random_batches(n_cells: int, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    order = rng.permutation(n_cells)
    yield from (order[start : start + batch] for start in range(0, n_cells, batch))


def grouped_batches(lengths: np.ndarray, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Longest first, in batches of neighbours, as grouping over all cells of so small a set comes to."""
    order = np.argsort(-lengths, kind="stable")
    yield from (order[start : start + batch] for start in range(0, len(order), batch))


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """Mixed precision, as Trainer runs it, unless `dtype` is float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype != "float32")


def ours(network: Network, optimizer: torch.optim.Optimizer, cells: TokenDataset, chosen: np.ndarray) -> None:
    batch = {name: part.to(network.bert.device) if torch.is_tensor(part) else part
             for name, part in collate([cells[i] for i in chosen]).items()}  # fmt: skip
    network(**batch)["loss"].backward()
    optimizer.step()
    optimizer.zero_grad()


def reference(
    model: BertForSequenceClassification, optimizer: torch.optim.Optimizer, cells: TokenDataset, chosen: np.ndarray
) -> None:
    ids, mask = (x.to(model.device) for x in padded(cells.tokens, chosen))
    labels = torch.from_numpy(cells.labels[chosen, 0]).to(model.device)
    model(ids, attention_mask=mask, labels=labels).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="V1-10M")
    parser.add_argument("--cells", type=int, default=48)
    parser.add_argument("--lengths", default="uniform")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--frozen", type=int, default=0)
    parser.add_argument("--dropout", type=float, default=0.02)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()

    device, rng = torch.device(options.device), np.random.default_rng(0)
    shape = config(options.shape)
    shape.hidden_dropout_prob = shape.attention_probs_dropout_prob = options.dropout
    shape.num_labels = CLASSES
    lengths = cell_lengths(options.lengths, options.cells, shape.max_position_embeddings)
    ids = np.concatenate([rng.permutation(np.arange(2, shape.vocab_size))[:n] for n in lengths]).astype(np.int32)
    cells = TokenDataset(ids, offsets_of(lengths), rng.integers(0, CLASSES, (len(lengths), 1)))

    task = CellTask(vocabulary(shape.vocab_size, shape.max_position_embeddings), "first", [CLASSES])
    head = ClassHead(shape.hidden_size, CLASSES, "mlp", options.dropout)
    packed_bert = use_own_kernels(BertModel(shape, add_pooling_layer=False))
    network = Network(packed_bert, head, task.read, task.sizes).to(device).train()
    shape = type(shape).from_dict(shape.to_dict())
    shape._attn_implementation = "sdpa"
    stock = BertForSequenceClassification(shape).to(device).train()
    for bert in (network.bert, stock.bert):
        freeze(bert, options.frozen)

    def adamw(module: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-5)

    group = partial(grouped_batches, lengths, options.batch)
    shuffle = partial(random_batches, len(lengths), options.batch)
    steps_of = {
        "ours": (partial(ours, network, adamw(network), cells), shuffle),
        "reference, grouped": (partial(reference, stock, adamw(stock), cells), group),
        "reference, random": (partial(reference, stock, adamw(stock), cells), shuffle),
    }
    rates: dict[str, list[float]] = {name: [] for name in steps_of}
    print(
        f"{options.shape}: {len(lengths)} cells of {lengths.min()} to {lengths.max()} tokens "
        f"(mean {lengths.mean():.0f}), batches of {options.batch}, dropout {options.dropout}, "
        f"{options.frozen} blocks frozen, {options.dtype}, {device}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}",
        flush=True,
    )
    for number in range(options.rounds + 1):  # the first warms up
        for name, (step, batches) in steps_of.items():
            with autocast(device, options.dtype):
                rate = measure(step, batches(np.random.default_rng(number)), len(lengths), device)
            if number:
                rates[name].append(rate)
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(rates["ours"], values, strict=True)]
        print(
            f"  {name:20} {statistics.median(values):7.2f} cells/s ({min(values):.2f} to {max(values):.2f})"
            f"   ours x {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    print(f"peak memory of all together {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


def measure(
    step: Callable[[np.ndarray], None], batches: Iterator[np.ndarray], n_cells: int, device: torch.device
) -> float:
    """Cells per second of one pass."""
    wait_for(device)
    start = time.perf_counter()
    for chosen in batches:
        step(chosen)
    wait_for(device)
    return n_cells / (time.perf_counter() - start)


if __name__ == "__main__":
    main()

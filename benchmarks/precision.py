"""How far half precision is from float32: cosine and largest difference of cell embeddings, layer -2, mean pooling.

    python benchmarks/precision.py [--device cpu] [--cells 16]

`mini` on real cells that ship with scanpy; random weights of the V1 and V2 shapes on cells of 200 tokens to the full
input size. The largest difference is stated beside the largest float32 value.
"""

from __future__ import annotations

import argparse
import copy

import numpy as np
import torch
from embed import SHAPES, cell_lengths, config, vocabulary
from transformers import BertModel

import scgeneformer as gf
from scgeneformer._adata.tokens import open_tokens
from scgeneformer._engine.cost import choose_tokens_per_batch
from scgeneformer._engine.device import matmul_precision
from scgeneformer._engine.embedding import embed_cells
from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.pooling import pool_mean
from scgeneformer._engine.tokens import Tokens, concatenate


def random_model(shape: str, n_cells: int):
    settings = config(shape)
    genes = vocabulary(settings.vocab_size, settings.max_position_embeddings)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    lengths = cell_lengths("uniform", n_cells, genes.input_size)
    cells = Tokens.from_lists([rng.choice(genes.tokens, n, replace=False) for n in lengths])
    return use_own_kernels(BertModel(settings, add_pooling_layer=False).eval()), genes, cells


def mini(n_cells: int):
    model = gf.models.load("mini", device="cpu", dtype="float32")
    adata = gf.datasets.pbmc68k()[:n_cells].copy()
    cells = concatenate([tokens for _, tokens, _ in open_tokens(adata, model.vocabulary).blocks()])
    return copy.deepcopy(model.bert), model.vocabulary, cells  # the model itself is shared, and this one is converted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=16)
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--shapes", nargs="+", default=["mini", *SHAPES])
    args = parser.parse_args()
    numbers = ["bfloat16", "float16"] + (["tf32"] if args.device.type == "cuda" else [])
    print("model     numbers    smallest cosine   largest difference (of values up to)")
    for shape in args.shapes:
        n_cells = args.cells if shape in ("mini", "V1-10M") else max(2, args.cells // 4)
        bert, genes, cells = mini(n_cells) if shape == "mini" else random_model(shape, n_cells)
        layer, budget = bert.config.num_hidden_layers - 1, choose_tokens_per_batch(bert, None)

        def embedding(name: str, bert=bert, genes=genes, cells=cells, layer=layer, budget=budget) -> np.ndarray:
            dtype = torch.float32 if name == "tf32" else getattr(torch, name)
            with matmul_precision(name):
                bert.to(args.device, dtype)
                return embed_cells([(0, cells)], len(cells), [bert], genes, [layer], pool_mean, budget)[layer]

        exact = embedding("float32")
        weights = {name: tensor.clone() for name, tensor in bert.state_dict().items()}
        for name in numbers:
            other = embedding(name)
            bert.to(torch.float32).load_state_dict(weights)
            cosine = (exact * other).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(other, axis=1)
            difference = np.abs(exact - other).max()
            print(f"{shape:9} {name:10} {cosine.min():.6f}          {difference:.4f} ({np.abs(exact).max():.2f})")


if __name__ == "__main__":
    main()

"""Maximal update parametrisation: the table of rates and spreads, and that its point is true."""

from __future__ import annotations

import numpy as np
import torch
from toys import make_model, make_vocabulary

from scgeneformer._engine.encoder import hidden_states
from scgeneformer._engine.packing import Packed
from scgeneformer._training.dataset import TokenDataset, collate
from scgeneformer._training.encoder import default_config, new_encoder
from scgeneformer._training.masked_genes import MaskedDataset, MaskedGenes
from scgeneformer._training.optimizer import parameter_groups
from scgeneformer._training.recipe import Recipe
from scgeneformer._training.run import Run

VOCABULARY = make_vocabulary(60, input_size=64)
CPU = torch.device("cpu")


def make_network(width: int, base_width: int | None, n_blocks: int = 2):
    """From scratch, without dropout."""
    config = {"num_hidden_layers": n_blocks, "hidden_size": width}
    recipe = Recipe(init="random", config=config, base_width=base_width, dropout=0.0)
    bert = new_encoder(default_config(VOCABULARY, width), num_hidden_layers=n_blocks)
    run = Run(bert, recipe, MaskedGenes(VOCABULARY), VOCABULARY.n_tokens, 0, CPU, None, {})
    return run.network()


def groups_of(network, m: float, weight_decay: float = 0.01) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every weight by name."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, 2, 1.0, 1.0, weight_decay, m)
    return {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_rates_by_hand():
    found = groups_of(make_network(128, None), 2.0)
    block = "bert.encoder.layer.1."
    assert found[f"{block}attention.self.query.weight"] == (0.5, 0.02)
    assert found[f"{block}intermediate.dense.weight"] == (0.5, 0.02)
    assert found["head.dense.weight"] == (0.5, 0.02)
    assert found["head.norm.weight"] == found["head.norm.bias"] == (0.5, 0.0)
    assert found["bert.embeddings.word_embeddings.weight"] == (1.0, 0.01)
    assert found["bert.embeddings.position_embeddings.weight"] == (1.0, 0.01)
    for name in (f"{block}intermediate.dense.bias", f"{block}output.LayerNorm.weight", "head.bias", "head.dense.bias"):
        assert found[name] == (1.0, 0.0)


def test_spreads_by_hand():
    plain, scaled = make_network(128, None), make_network(128, 32)  # m = 4
    for (name, a), b in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        factor = 1.0
        if name in ("head.norm.weight", "head.norm.bias"):
            factor = 0.25
        elif a.ndim > 1 and ("encoder.layer" in name or name == "head.dense.weight"):
            factor = 0.5
        torch.testing.assert_close(b, a * factor, msg=name)


def test_at_the_base_width_nothing_changes():
    plain, scaled = make_network(64, None), make_network(64, 64)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), scaled.parameters(), strict=True))
    assert groups_of(plain, 1.0) == groups_of(scaled, 64 / 64)


def test_pretrained_weights_stay():
    model = make_model()
    recipe = Recipe(base_width=4)
    task = MaskedGenes(model.vocabulary)
    network = Run(model.bert, recipe, task, model.vocabulary.n_tokens, 0, CPU, None, {}).network()
    for name, tensor in model.bert.state_dict().items():
        assert torch.equal(network.bert.state_dict()[name], tensor)


def changes(width: int, base_width: int | None, n_steps: int = 4, rate: float = 3e-4) -> np.ndarray:
    """How much the states of each layer, and the logits, change in a few steps of AdamW: root mean squares."""
    rng = np.random.default_rng(0)
    tokens = np.concatenate([rng.permutation(VOCABULARY.tokens)[:40] for _ in range(8)])
    cells = TokenDataset(tokens, np.arange(0, 321, 40), np.empty((8, 0), np.int64))
    masked = MaskedDataset.of(cells, MaskedGenes(VOCABULARY), 0)
    batch = collate([masked[i] for i in range(8)])
    network = make_network(width, base_width).train()
    m = 1.0 if base_width is None else width / base_width
    optimizer = torch.optim.AdamW(parameter_groups(network, 2, rate, 1.0, 0.0, m))

    def states() -> list[torch.Tensor]:
        with torch.no_grad():
            packed = Packed(batch["ids"], batch["positions"], batch["offsets"], batch["lengths"])
            found = hidden_states(network.bert, packed, range(3))
            return [*(found[i] for i in range(3)), network.head(found[2][batch["targets"]])]

    before = states()
    for _ in range(n_steps):
        optimizer.zero_grad()
        network(**batch)["loss"].backward()
        optimizer.step()
    return np.array([float((a - b).square().mean().sqrt()) for a, b in zip(states(), before, strict=True)])


def test_coordinate_check():
    """Over widths 64 to 512 the changes do not grow in this parametrisation, and they do in the standard one."""
    widths = (64, 512)
    plain, scaled = ([changes(width, base) for width in widths] for base in (None, 64))
    np.testing.assert_array_equal(plain[0], scaled[0])
    assert (scaled[1] / scaled[0] < 1.3).all()
    assert (plain[1] / plain[0])[1:].min() > 2  # of the blocks, and of the logits

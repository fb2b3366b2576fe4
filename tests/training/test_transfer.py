"""Which rows the genes of another vocabulary begin with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from toys import make_model, make_vocabulary

from scgeneformer._engine.masked_head import MaskedHead
from scgeneformer._engine.vocabulary import Vocabulary
from scgeneformer._errors import DataError, ModelError
from scgeneformer._training.transfer import find_transfer, read_orthologs, transferred

KNOWN = make_vocabulary(5)  # <pad> <mask>, genes 2 to 6
MEAN = [0, 0, 0.2, 0.2, 0.2, 0.2, 0.2]


def vocabulary_of(*genes: str, **special: int) -> Vocabulary:
    """Genes behind the special tokens, in the given order."""
    special = {f"<{name}>": token for name, token in (special or {"pad": 0, "mask": 1}).items()}
    return Vocabulary(
        tokens=np.arange(len(special), len(special) + len(genes), dtype=np.int32),
        ensembl_ids=np.array(genes),
        symbols=np.array(["" for _ in genes]),
        medians=np.ones(len(genes)),
        special=special,
        input_size=16,
    )


def one(row: int) -> list[float]:
    return np.eye(KNOWN.n_tokens)[row].tolist()


def test_known_genes_keep_their_rows_wherever_they_are_and_new_ones_begin_with_the_mean():
    wider = vocabulary_of("ENSG00000000003", "ENSG00000099999", "ENSG00000000000", pad=0, cls=1, mask=2)
    found = find_transfer(wider, KNOWN)
    np.testing.assert_allclose(found.weights.toarray(), [one(0), MEAN, one(1), one(5), MEAN, one(2)], rtol=1e-6)
    assert (found.n_same, found.n_orthologs, found.n_new, found.n_left) == (2, 0, 1, 3)


@pytest.mark.parametrize("form", ["dict", "lists", "series", "frame"])
def test_genes_begin_with_the_rows_of_their_orthologs(form):
    mouse = vocabulary_of("ENSMUSG00000000001", "ENSMUSG00000000002", "ENSMUSG00000000003", "ENSG00000000004")
    pairs = [
        ("ENSMUSG00000000001", "ENSG00000000002"),
        ("ENSMUSG00000000002", "G0"),  # by its symbol
        ("ENSMUSG00000000002", "ENSG00000000001"),
        ("ENSMUSG00000000002", "ENSG00000000001"),  # named twice
        ("ENSMUSG00000000077", "ENSG00000000002"),  # in neither
        ("ENSG00000000004", "ENSG00000000000"),  # the model knows this gene itself
    ]
    frame = pd.DataFrame(pairs, columns=["mouse", "human"])
    lists = frame.groupby("mouse")["human"].agg(list)
    given = {
        "dict": {**dict(pairs), "ENSMUSG00000000002": ["G0", "ENSG00000000001"]},
        "lists": lists.to_dict(),
        "series": frame.set_index("mouse")["human"],
        "frame": frame,
    }[form]
    found = find_transfer(mouse, KNOWN, given)
    two = (np.array(one(2)) + one(3)) / 2
    np.testing.assert_allclose(found.weights.toarray(), [one(0), one(1), one(4), two, MEAN, one(6)], rtol=1e-6)
    assert (found.n_same, found.n_orthologs, found.n_new, found.n_left) == (1, 2, 1, 4)


def test_missing_orthologs_are_left_out():
    table = pd.Series(["b", None, np.nan], index=["a", "c", "d"], dtype=object)
    assert read_orthologs(table) == [("a", "b")]
    assert read_orthologs({"a": ["x", "y"], "b": []}) == [("a", "x"), ("a", "y")]


def test_the_decoder_bias_goes_along_and_all_else_stays():
    model = make_model(n_genes=5)
    head = MaskedHead(model.bert.config).initialise(1.0, 0)
    torch.nn.init.normal_(head.bias)
    wider = vocabulary_of("ENSG00000000003", "ENSG00000099999")
    bert, fitting = transferred(model.bert, head, find_transfer(wider, model.vocabulary), 0)
    words, old = (x.embeddings.word_embeddings.weight for x in (bert, model.bert))
    np.testing.assert_array_equal(words[2].detach(), old[5])
    np.testing.assert_allclose(words[3].detach(), old[2:].mean(dim=0), atol=1e-6)
    assert float(fitting.bias[2].detach()) == float(head.bias[5].detach())
    assert float(fitting.bias[3].detach()) == pytest.approx(float(head.bias[2:].mean().detach()), abs=1e-6)
    assert torch.equal(fitting.dense.weight, head.dense.weight)
    for name, tensor in model.bert.state_dict().items():
        assert "word_embeddings" in name or torch.equal(bert.state_dict()[name], tensor)


def test_logits_of_known_genes_stay(toy):
    """With more genes, an encoder without dropout gives the genes it knows the logits that it gave them before."""
    head = MaskedHead(toy.bert.config).initialise(1.0, 0)
    torch.nn.init.normal_(head.bias)
    old = toy.vocabulary
    wider = replace(
        old,
        tokens=np.append(old.tokens, old.n_tokens).astype(np.int32),
        ensembl_ids=np.append(old.ensembl_ids, "ENSG00000099999"),
        symbols=np.append(old.symbols, ""),
        medians=np.append(old.medians, 1.0),
    )
    bert, fitting = transferred(toy.bert, head, find_transfer(wider, old), 0)
    states = torch.randn(3, toy.width)
    before, after = head.on(toy.bert)(states), fitting.tie(bert)(states)
    torch.testing.assert_close(after[:, :-1], before)
    torch.testing.assert_close(after[:, -1], before[:, 2:].mean(dim=1))  # the mean logit of all genes


# --- bad input ------------------------------------------------------------------------------------------------------


def test_vocabularies_without_a_gene_in_common_are_refused():
    with pytest.raises(
        ModelError, match=r"\(A, B\) and the model .* share no gene\. Name orthologs".replace("B", "B.*")
    ):
        find_transfer(vocabulary_of("A", "B"), KNOWN)


def test_orthologs_the_wrong_way_round_are_refused():
    mouse = vocabulary_of("ENSMUSG00000000001")
    with pytest.raises(
        DataError,
        match=r"names 0 genes of the vocabulary \(such as 'ENSMUSG00000000001'\) and 0 of the model \(such as "
        r"'ENSG00000000000'\), but no pair of both\. The first pair is 'ENSG00000000001' -> 'ENSMUSG00000000001'",
    ):
        find_transfer(mouse, KNOWN, {"ENSG00000000001": "ENSMUSG00000000001"})


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (["a"], "orthologs= is a list. Give a dictionary, Series or DataFrame"),
        (pd.DataFrame({"a": ["b"]}), "must have two columns: the gene of the vocabulary, and the gene of the model"),
    ],
)
def test_what_is_no_table_of_orthologs_is_refused(given, error):
    with pytest.raises(DataError, match=error):
        read_orthologs(given)

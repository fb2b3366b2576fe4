import json
from dataclasses import replace

import numpy as np
import pytest
from toys import make_vocabulary

from scgeneformer._engine.encodings import RankValue
from scgeneformer._engine.vocabulary import Vocabulary, names_of, read_vocabulary, write_vocabulary
from scgeneformer._errors import ModelError


def test_special_tokens_leave_less_room_for_genes():
    assert make_vocabulary(input_size=16).max_genes == 16
    assert make_vocabulary(input_size=16, special=True).max_genes == 14


def test_n_tokens_counts_special_tokens(vocabulary):
    assert vocabulary.n_tokens == 40 + len(vocabulary.special)


def test_names_in_upper_case_lead_to_tokens_and_ids_win_over_aliases_over_symbols():
    vocabulary = Vocabulary(
        tokens=np.array([2, 3, 4], dtype=np.int32),
        ensembl_ids=np.array(["ENSG00000000001", "ENSG00000000002", "ENSG00000000003"]),
        symbols=np.array(["Abc", "X1", ""]),
        medians=np.ones(3),
        special={"<pad>": 0, "<mask>": 1},
        input_size=8,
        aliases={"X1": "ENSG00000000003", "ENSG00000000001": "ENSG00000000003"},
    )
    assert vocabulary.token_of_name["ABC"] == 2
    assert vocabulary.token_of_name["X1"] == 4  # the alias, not the symbol
    assert vocabulary.token_of_name["ENSG00000000001"] == 2  # the ID itself, not the alias


def test_writing_and_reading_gives_the_same_vocabulary(tmp_path, vocabulary):
    write_vocabulary(vocabulary, tmp_path)
    again = read_vocabulary(tmp_path)
    assert again.checksum == vocabulary.checksum
    assert again.aliases == vocabulary.aliases
    np.testing.assert_array_equal(again.symbols, vocabulary.symbols)


def test_aliases_are_written_as_two_columns(tmp_path):
    write_vocabulary(replace(make_vocabulary(), aliases={"OLD": "ENSG00000000001"}), tmp_path)
    assert (tmp_path / "aliases.tsv").read_text().split() == ["alias", "ensembl_id", "OLD", "ENSG00000000001"]


def test_a_vocabulary_of_nothing_has_no_token():
    none = np.empty(0, dtype=str)
    assert Vocabulary(np.empty(0, dtype=np.int32), none, none, np.empty(0), special={}, input_size=1).n_tokens == 0


def test_names_have_at_most_128_letters():
    assert names_of(["G" * 128]).tolist() == ["G" * 128]
    with pytest.raises(ModelError, match="more than 128 letters"):
        names_of(["G" * 129])


def test_a_gene_called_nan_or_na_stays_a_gene(tmp_path):
    vocabulary = replace(make_vocabulary(3), symbols=np.array(["NA", "nan", ""]))
    write_vocabulary(vocabulary, tmp_path)
    assert read_vocabulary(tmp_path).symbols.tolist() == ["NA", "nan", ""]


def test_checksum_changes_with_a_median_and_with_the_input_size():
    one, other = make_vocabulary(), make_vocabulary()
    other.medians[5] += 1e-9
    assert one.checksum != other.checksum
    assert one.checksum != make_vocabulary(input_size=17).checksum
    turned = dict(reversed(one.special.items()))
    assert replace(one, special=turned).checksum == one.checksum  # their order decides nothing


@pytest.mark.parametrize("median", [0.0, -1.0, np.nan, np.inf])
def test_a_median_that_is_no_positive_number_is_refused_by_name(median):
    medians = np.ones(2)
    medians[1] = median
    with pytest.raises(ModelError, match="ENSG2"):
        Vocabulary(np.array([2, 3]), np.array(["ENSG1", "ENSG2"]), np.array(["", ""]), medians, {"<pad>": 0}, 4)


def test_one_token_for_two_genes_is_refused():
    with pytest.raises(ModelError, match="one token to two genes"):
        Vocabulary(np.array([2, 2]), np.array(["A", "B"]), np.array(["", ""]), np.ones(2), {"<pad>": 0}, 4)
    with pytest.raises(ModelError, match="one token to two genes"):
        Vocabulary(np.array([0, 2]), np.array(["A", "B"]), np.array(["", ""]), np.ones(2), {"<pad>": 0}, 4)
    with pytest.raises(ModelError, match="one token to two genes or special tokens"):
        replace(make_vocabulary(), special={"<pad>": 0, "<mask>": 0})


def test_a_token_out_of_bounds_is_refused_wherever_it_stands():
    tokens = np.array([2, -7, 3])
    with pytest.raises(ModelError, match="token -7; tokens are numbers from 0"):
        Vocabulary(tokens, np.array(["A", "B", "C"]), np.array([""] * 3), np.ones(3), {"<pad>": 0}, 4)


@pytest.mark.parametrize("damage", ["genes.tsv", "geneformer.json"])
def test_a_missing_file_is_named(tmp_path, damage):
    write_vocabulary(make_vocabulary(), tmp_path)
    (tmp_path / damage).unlink()
    with pytest.raises(ModelError, match=damage):
        read_vocabulary(tmp_path)


def test_a_missing_column_is_named(tmp_path):
    write_vocabulary(make_vocabulary(), tmp_path)
    genes = tmp_path / "genes.tsv"
    genes.write_text(genes.read_text().replace("median", "mean", 1))
    with pytest.raises(ModelError, match="median"):
        read_vocabulary(tmp_path)


def test_the_encoding_is_stored_with_the_vocabulary_and_older_files_are_rank_valued(tmp_path):
    write_vocabulary(make_vocabulary(), tmp_path)
    meta = json.loads((tmp_path / "geneformer.json").read_text())
    assert meta.pop("encoding") == {"name": "rank-value"}
    (tmp_path / "geneformer.json").write_text(json.dumps(meta))
    assert read_vocabulary(tmp_path).encoding == RankValue()


@pytest.mark.parametrize(
    ("encoding", "message"),
    [({"name": "alphabet"}, "encoding 'alphabet' is not known"), ({"name": "rank-value", "n": 1}, "no setting 'n'")],
)
def test_an_encoding_that_is_not_known_is_refused(tmp_path, encoding, message):
    write_vocabulary(make_vocabulary(), tmp_path)
    meta = json.loads((tmp_path / "geneformer.json").read_text())
    (tmp_path / "geneformer.json").write_text(json.dumps(meta | {"encoding": encoding}))
    with pytest.raises(ModelError, match=message):
        read_vocabulary(tmp_path)

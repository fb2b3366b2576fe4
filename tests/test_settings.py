from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

import scgeneformer as gf
from scgeneformer.settings import Settings


def test_the_environment_sets_the_defaults(monkeypatch):
    monkeypatch.setenv("SCGENEFORMER_MODEL", "mini")
    monkeypatch.setenv("SCGENEFORMER_TOKENS_PER_BATCH", "512")
    monkeypatch.setenv("SCGENEFORMER_PROGRESS", "off")
    found = Settings.from_environment()
    assert (found.model, found.tokens_per_batch, found.progress, found.device) == ("mini", 512, False, "auto")


def test_a_variable_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv("SCGENEFORMER_TOKENS_PER_BATCH", "many")
    with pytest.raises(gf.DataError, match="SCGENEFORMER_TOKENS_PER_BATCH='many' is not a whole number"):
        Settings.from_environment()


def test_override_ends_with_its_block_even_after_an_error():
    before = gf.settings.model

    def fail():
        assert gf.settings.model == "other"
        raise RuntimeError

    with pytest.raises(RuntimeError), gf.settings.override(model="other", device="cpu"):
        fail()
    assert (gf.settings.model, gf.settings.device) == (before, "auto")


def test_an_unknown_setting_is_refused_with_those_there_are():
    with pytest.raises(gf.DataError, match=r"'modle'; the settings are model, device"), gf.settings.override(modle=1):
        pass


def test_blocks_may_end_in_any_order_and_leave_other_settings_alone():
    first, second = gf.settings.override(model="a"), gf.settings.override(model="b", device="cpu")
    before = gf.settings.model
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert (gf.settings.model, gf.settings.device) == ("b", "cpu")
    second.__exit__(None, None, None)
    assert (gf.settings.model, gf.settings.device) == (before, "auto")
    with gf.settings.override(device="cpu"):
        gf.settings.dtype = "bfloat16"
    assert (gf.settings.device, gf.settings.dtype) == ("auto", "bfloat16")


def test_a_block_is_of_its_thread():
    barrier = Barrier(2)

    def device(name):
        with gf.settings.override(device=name):
            barrier.wait(60)
            found = gf.settings.device
            barrier.wait(60)
        return found, gf.settings.device

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(device, ["cpu", "cuda"])) == [("cpu", "auto"), ("cuda", "auto")]

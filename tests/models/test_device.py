import os
import sys

import pytest
import torch

from scgeneformer._engine.device import (
    free_memory,
    matmul_precision,
    resolve_device,
    resolve_devices,
    resolve_dtype,
)
from scgeneformer._errors import ModelError


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: [(7, 0), (9, 0)][device.index])


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def test_auto_without_gpu_is_the_cpu_in_float32(no_gpu):
    assert resolve_device("auto") == torch.device("cpu")
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    with pytest.raises(ModelError, match=r"sees no CUDA device\. Use device='cpu'"):
        resolve_device("cuda")


def test_auto_with_gpu_is_the_current_one_in_half_precision(two_gpus):
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 1)
    assert resolve_device("cpu:0") == torch.device("cpu")
    assert resolve_dtype("auto", torch.device("cuda", 1)) == torch.bfloat16
    assert resolve_dtype("auto", torch.device("cuda", 0)) == torch.float16
    assert resolve_dtype("float32", torch.device("cuda", 0)) == torch.float32


def test_devices_that_do_not_exist_list_those_that_do(two_gpus):
    assert resolve_device(torch.device("cuda:0")) == torch.device("cuda", 0)
    with pytest.raises(ModelError, match="this machine has 'cuda:0', 'cuda:1'"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", None, 1.5, "", "mps"])
def test_names_of_no_device_are_refused_with_those_there_are(device, no_gpu):
    with pytest.raises(ModelError, match="it is 'auto', 'cpu', 'cuda' or 'cuda:1'"):
        resolve_device(device)


def test_free_memory_counts_what_torch_holds_in_reserve(monkeypatch):
    for name, value in {"memory_reserved": 50, "memory_allocated": 20, "mem_get_info": (100, 200)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert free_memory(torch.device("cuda", 0)) == 130


@pytest.mark.skipif(sys.platform != "linux", reason="told by Linux")
def test_free_memory_of_a_cpu_is_what_can_be_had_without_swapping():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_memory(torch.device("cpu")) <= total


def test_free_memory_that_nobody_tells_is_none(monkeypatch):
    def fails(*_, **__):
        raise OSError

    monkeypatch.setattr("builtins.open", fails)
    assert free_memory(torch.device("cpu")) is None


def test_tf32_is_float32_on_cuda_and_refused_on_a_cpu():
    assert resolve_dtype("tf32", torch.device("cuda", 0)) is torch.float32
    with pytest.raises(ModelError, match="for CUDA devices, not for cpu"):
        resolve_dtype("tf32", torch.device("cpu"))
    before = torch.get_float32_matmul_precision()
    with matmul_precision("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
    with matmul_precision("float32"):
        assert torch.get_float32_matmul_precision() == before
    assert torch.get_float32_matmul_precision() == before


def test_several_devices_are_resolved_one_by_one():
    assert resolve_devices(["cpu", "cpu"]) == [torch.device("cpu")] * 2
    assert resolve_devices("cpu") == [torch.device("cpu")]
    with pytest.raises(ModelError, match="names no device"):
        resolve_devices([])
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="sees no CUDA device"):
            resolve_devices("cuda:all")

"""Bias and ReLU within the product are those of the stock modules."""

import pytest
import torch
from toys import make_bert, make_vocabulary
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertIntermediate

from scgeneformer._engine import linear
from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.linear import Intermediate, Linear, use_own_products

HALF = [torch.bfloat16, torch.float16]
SMALL = {torch.bfloat16: 2**-7, torch.float16: 2**-10}  # a unit in the last place of 1


@pytest.fixture
def products(monkeypatch):
    """What was asked of the product so far."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    asked, real = [], linear._product
    monkeypatch.setattr(linear, "_product", lambda *args: asked.append(args[2]) or real(*args))
    return asked


def supported(dtype):
    if not linear._computed_in(dtype):
        pytest.skip(f"this processor does not compute in {dtype}")


def intermediate(activation, dtype=torch.float32):
    torch.manual_seed(0)
    config = BertConfig(hidden_size=48, intermediate_size=96, num_attention_heads=4, hidden_act=activation)
    return BertIntermediate(config).to(dtype)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_with_bias_is_that_of_the_stock_module(products, dtype, bias):
    supported(dtype)
    stock = torch.nn.Linear(48, 32, bias=bias).to(dtype)
    states = torch.randn(2, 7, 48).to(dtype)
    with torch.no_grad():
        wanted = stock(states)
        use_own_products(stock)
        assert isinstance(stock, Linear)
        torch.testing.assert_close(stock(states), wanted, rtol=SMALL[dtype], atol=SMALL[dtype])
    assert products == ["none"]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("activation", "asked"), [("relu", ["relu"]), ("gelu", ["none"])])
def test_relu_is_part_of_the_product_and_other_activations_come_after_it(products, dtype, activation, asked):
    supported(dtype)
    stock, own = intermediate(activation, dtype), intermediate(activation, dtype)
    use_own_products(own)
    states = torch.randn(1, 9, 48).to(dtype)
    with torch.inference_mode():
        torch.testing.assert_close(own(states), stock(states), rtol=SMALL[dtype], atol=SMALL[dtype])
    assert isinstance(own, Intermediate)
    assert products == asked


@pytest.mark.parametrize(("dtype", "context"), [(torch.float32, torch.no_grad), (torch.bfloat16, torch.enable_grad)])
def test_float32_and_gradients_go_through_the_stock_modules(products, dtype, context):
    own, stock = intermediate("relu", dtype), intermediate("relu", dtype)
    use_own_products(own)
    states = torch.randn(1, 9, 48).to(dtype)
    with context():
        found, wanted = own(states), stock(states)
    assert products == []
    assert torch.equal(found, wanted)
    assert found.requires_grad == (context is torch.enable_grad)


def test_autocast_goes_through_the_stock_modules(products):
    own, stock = intermediate("relu"), intermediate("relu")
    use_own_products(own)
    states = torch.randn(1, 9, 48).to(torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(own(states), stock(states))
    assert products == []


def test_an_adapter_on_the_dense_layer_is_not_passed_by(products):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    own = intermediate("relu", torch.bfloat16)
    use_own_products(own)
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["dense"], init_lora_weights=False), own)
    states = torch.randn(1, 9, 48).to(torch.bfloat16)
    with torch.no_grad():
        found = own(states)
        plain = own.dense.base_layer(states).relu()
    assert "relu" not in products
    assert not torch.allclose(found, plain)


def test_names_weights_and_layer_norms_stay():
    stock, own = make_bert(make_vocabulary()), use_own_kernels(make_bert(make_vocabulary()))
    assert [name for name, _ in own.named_parameters()] == [name for name, _ in stock.named_parameters()]
    kinds = {type(module) for module in own.modules()}
    assert {Linear, Intermediate, torch.nn.LayerNorm} <= kinds
    assert not kinds & {torch.nn.Linear, BertIntermediate}

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from workingpapers.papers.sema.method import Adapter, AdapterPool, Descriptor, SEMAConfig

CONFIG = SEMAConfig(bottleneck=3, rd_dim=4, buffer_size=6, expand_layers=(1,))


def pool_of(count, adapter="adaptformer"):
    torch.manual_seed(0)
    config = SEMAConfig(**{**CONFIG.__dict__, "adapter": adapter})
    pool = AdapterPool(8, config)
    pool.resize(count)
    for parameter in pool.parameters():
        torch.nn.init.normal_(parameter)
    return pool


def test_adapter_worked_by_hand():
    """Down sends (1, 2) to (3, -1); ReLU leaves (3, 0); up triples it and adds 1."""
    adapter = Adapter(2, 2)
    with torch.no_grad():
        adapter.down.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        adapter.up.weight.copy_(torch.tensor([[3.0, 9.0], [0.0, 9.0]]))
        adapter.up.bias.fill_(1)
    assert adapter(torch.tensor([1.0, 2.0])).tolist() == [10, 1]
    lora = Adapter(2, 2, "lora")
    lora.load_state_dict({k: v for k, v in adapter.state_dict().items() if "weight" in k})
    assert lora(torch.tensor([1.0, 2.0])).tolist() == [0, -9]


def test_adapter_has_the_papers_size_and_is_silent_at_first():
    adapter = Adapter(768, 16)
    assert sum(p.numel() for p in adapter.parameters()) == 25_360
    assert adapter(torch.randn(3, 768)).abs().max() == 0
    assert 0.9 / math.sqrt(768) < adapter.down.weight.abs().max() <= 1 / math.sqrt(768)
    assert sum(p.numel() for p in Descriptor(768, 128, 500).parameters()) == 197_504


def test_descriptor_error_and_z_worked_by_hand():
    """An autoencoder of zeros answers 0: the error is the mean square, (9 + 16) / 2."""
    rd = Descriptor(2, 1, 4)
    torch.nn.init.zeros_(rd.decoder.weight)
    assert rd(torch.tensor([[3.0, 4.0]])).item() == 12.5
    rd.record(torch.tensor([1.0, 2.0, 3.0]))
    assert_close(rd.z(torch.tensor([0.0, 4.0])), torch.tensor([2.0, 2.0]))  # mean 2, deviation 1
    rd.signed = True
    assert_close(rd.z(torch.tensor([0.0, 4.0])), torch.tensor([-2.0, 2.0]))


def test_buffer_drops_the_rest_of_the_batch_that_fills_it_and_then_the_oldest():
    rd = Descriptor(2, 1, 4)
    rd.record(torch.tensor([1.0, 2.0, 3.0]))
    assert rd.recorded.tolist() == [1, 2, 3]
    rd.record(torch.tensor([4.0, 5.0, 6.0]))
    assert rd.recorded.tolist() == [1, 2, 3, 4]
    rd.record(torch.tensor([7.0, 8.0]))
    assert rd.recorded.tolist() == [3, 4, 7, 8]
    rd.record(torch.arange(10.0))
    assert rd.recorded.tolist() == [6, 7, 8, 9]


def test_few_errors_say_nothing_and_equal_ones_are_named():
    rd = Descriptor(2, 1, 4)
    rd.record(torch.tensor([1.0, 2.0]))
    assert rd.z(torch.tensor([9.0])).item() == 0
    rd.errors.fill_(2)
    rd.count.fill_(3)
    with pytest.raises(ValueError, match="3 recorded errors are 2, so their deviation is 0"):
        rd.z(torch.tensor([9.0]))


@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from(["adaptformer", "lora"]))
def test_stacked_pool_is_the_weighted_sum_of_its_adapters(count, tokens, kind):
    pool, x = pool_of(count, kind), torch.randn(3, tokens, 8)
    w = pool.weights(x.mean(1))
    assert_close(w.sum(1), torch.ones(3))
    assert w.min() >= 0
    expected = sum(w[:, k, None, None] * f(x) for k, f in enumerate(pool.adapters))
    assert_close(pool(x), expected, rtol=1e-4, atol=1e-4)


def test_gradients_of_the_pool_are_those_of_the_sum():
    pool, x = pool_of(3), torch.randn(2, 5, 8)
    pool.requires_grad_(True)
    pool(x).square().sum().backward()
    got = {n: p.grad.clone() for n, p in pool.named_parameters() if p.grad is not None}
    pool.zero_grad()
    w = pool.weights(x.mean(1))
    sum(w[:, k, None, None] * f(x) for k, f in enumerate(pool.adapters)).square().sum().backward()
    expected = {n: p.grad for n, p in pool.named_parameters() if p.grad is not None}
    assert got.keys() == expected.keys()
    assert not any("descriptors" in name for name in got)
    assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_one_adapter_needs_no_router():
    pool, x = pool_of(1), torch.randn(2, 5, 8)
    assert torch.equal(pool(x), pool.adapters[0](x))
    assert pool.weights(x.mean(1)).tolist() == [[1], [1]]


def test_folding_changes_no_answer_and_expanding_freezes_the_rest():
    pool, x = pool_of(2), torch.randn(2, 5, 8)
    pool.expand()
    torch.nn.init.normal_(pool.adapters[2].up.weight)
    trained = {
        n.split(".")[0] + n.split(".")[1] for n, p in pool.named_parameters() if p.requires_grad
    }
    assert trained == {"adapters2", "descriptors2", "new_routerweight", "new_routerbias"}
    with pytest.raises(RuntimeError, match="folded in"):
        pool.expand()
    before, row = pool(x), pool.new_router.weight.clone()
    pool.fold()
    assert torch.equal(pool(x), before)
    assert pool.new_router is None
    assert torch.equal(pool.router.weight[2:], row)
    pool.unfold()
    assert torch.equal(pool(x), before)
    assert torch.equal(pool.new_router.weight, row)


def test_order_of_tokens_and_samples_does_not_matter():
    pool, x = pool_of(3), torch.randn(4, 5, 8)
    assert_close(pool(x.flip(1)).flip(1), pool(x))
    assert_close(pool.errors(pool.described(x.flip(1))), pool.errors(pool.described(x)))
    assert_close(pool(x.flip(0)).flip(0), pool(x))


def test_padding_does_not_count():
    pool, x = pool_of(2), torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 2)
    assert_close(pool.summary(x, mask), x[:, :3].mean(1))
    assert_close(pool(x, mask)[:, :3], pool(x[:, :3]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bottleneck": 0}, "bottleneck must be 1 or more, got 0"),
        ({"rd_dim": 0}, "rd_dim must be 1"),
        ({"buffer_size": 0}, "buffer_size must be 1"),
        ({"threshold": -1.0}, "threshold must be 0 or more, got -1"),
        ({"threshold": math.nan}, "got nan"),
        ({"adapter": "conv"}, "'adaptformer' or 'lora', got 'conv'"),
        ({"rd_on": "max"}, "'mean' or 'class', got 'max'"),
        ({"expand_layers": (1, 1)}, "distinct numbers from 0"),
        ({"expand_layers": (-1,)}, "distinct numbers from 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        SEMAConfig(**change)

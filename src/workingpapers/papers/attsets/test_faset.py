import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.papers.attsets import (
    AttSets,
    AttSetsConv2d,
    FASet,
    MeanPool,
    MILPool,
    SetNetwork,
    as_aggregation,
)


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4))
        return SetNetwork(encoder, AttSets(4), nn.Linear(4, 2))


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(1)
    return torch.randn(5, 7, 3, generator=rng), torch.randn(5, 2, generator=rng)


def changed(model, before):
    return {n for n, p in model.state_dict().items() if not torch.equal(p, before[n])}


def test_groups_split_the_network_once(net):
    faset = FASet(net)
    base, attention = faset.base_parameters(), faset.attention_parameters()
    assert [id(p) for p in attention] == [id(p) for p in net.pool.parameters()]
    assert sorted(map(id, base + attention)) == sorted(map(id, net.parameters()))


def test_auto_finds_every_form(net):
    pool = AttSets(4)
    model = nn.ModuleList([net, AttSetsConv2d(3), as_aggregation(pool), nn.Linear(1, 1)])
    assert len(FASet(model).attention_parameters()) == 6
    assert len(FASet(model, [pool, pool]).attention_parameters()) == 2


def test_stage_1_is_the_mean_loss_of_all_elements_by_themselves(net, batch):
    x, y = batch
    alone = [
        F.mse_loss(net(x[m : m + 1, n : n + 1]), y[m : m + 1]) for m in range(5) for n in range(7)
    ]
    assert_close(FASet(net).stage1_loss(x, y, F.mse_loss), torch.stack(alone).mean())


def test_stage_2_is_the_loss_of_whole_sets(net, batch):
    x, y = batch
    assert_close(FASet(net).stage2_loss(x, y, F.mse_loss), F.mse_loss(net(x), y))


def test_absent_elements_count_in_neither_stage(net, batch):
    x, y = batch
    mask = torch.arange(7) < torch.tensor([[1], [7], [3], [2], [5]])
    padded = x.masked_fill(~mask[..., None], float("nan"))
    faset = FASet(net, loss_fn=F.mse_loss)
    alone = [
        F.mse_loss(net(x[m : m + 1, n : n + 1]), y[m : m + 1])
        for m in range(5) for n in range(7) if mask[m, n]
    ]  # fmt: skip
    assert_close(faset.stage1_loss(padded, y, mask=mask), torch.stack(alone).mean())
    whole = torch.cat([net(x[m : m + 1, : mask[m].sum()]) for m in range(5)])
    assert_close(faset.stage2_loss(padded, y, mask=mask), F.mse_loss(whole, y))
    for stage in (1, 2):
        assert faset.step((padded, y, mask), stage).isfinite()
    assert all(p.isfinite().all() for p in net.parameters())


def test_each_stage_leaves_the_other_group_bit_identical(net, batch):
    faset = FASet(net, loss_fn=F.mse_loss, lr=0.1)
    attention = {"pool.score.weight", "pool.score.bias"}
    before = copy.deepcopy(net.state_dict())
    for _ in range(3):
        faset.step(batch, 1)
    assert changed(net, before) == set(before) - attention
    before = copy.deepcopy(net.state_dict())
    for _ in range(3):
        faset.step(batch, 2)
    assert "pool.score.weight" in changed(net, before) <= attention
    assert all(p.requires_grad for p in net.parameters())


def test_gradients_reach_one_group_alone(net, batch):
    faset = FASet(net)
    faset.stage1_loss(*batch, F.mse_loss).backward()
    assert all(p.grad is None for p in faset.attention_parameters())
    assert all(p.grad.abs().max() > 0 for p in faset.base_parameters())
    net.zero_grad()
    faset.stage2_loss(*batch, F.mse_loss).backward()
    assert all(p.grad is None for p in faset.base_parameters())
    assert net.pool.score.weight.grad.abs().max() > 0


def test_what_was_frozen_before_stays_frozen(net, batch):
    net.decoder.weight.requires_grad_(False)
    before = net.decoder.weight.clone()
    faset = FASet(net, loss_fn=F.mse_loss, lr=0.1)
    faset.step(batch, 1), faset.step(batch, 2)
    assert torch.equal(net.decoder.weight, before)
    assert not net.decoder.weight.requires_grad


def test_running_statistics_move_with_their_own_group(net, batch):
    net.encoder.append(nn.BatchNorm1d(4))
    faset = FASet(net, loss_fn=F.mse_loss)
    mean = net.encoder[-1].running_mean
    faset.step(batch, 1)
    moved = mean.clone()
    assert moved.abs().max() > 0
    faset.step(batch, 2)
    assert torch.equal(mean, moved)
    assert net.encoder[-1].training


def test_adam_as_in_the_released_code(net):
    base, attention = FASet(net, attention_lr=1e-3).optimizers
    assert base.defaults["lr"] == 1e-4 and attention.defaults["lr"] == 1e-3
    assert base.defaults["betas"] == (0.9, 0.999) and base.defaults["eps"] == 1e-8
    assert FASet(net, lr=0.2).optimizers[1].defaults["lr"] == 0.2
    own = torch.optim.SGD(net.encoder.parameters(), 1), torch.optim.SGD(net.pool.parameters(), 1)
    assert FASet(net, optimizers=own).optimizers is own


def test_a_step_forgets_the_gradients_of_the_one_before(net, batch):
    groups = net.encoder.parameters(), net.pool.parameters()
    base, attention = (torch.optim.SGD(group, 0.1) for group in groups)
    faset = FASet(net, loss_fn=F.mse_loss, optimizers=(base, attention))
    for _ in range(2):
        weight = net.pool.score.weight.detach().clone()
        (slope,) = torch.autograd.grad(F.mse_loss(net(batch[0]), batch[1]), net.pool.score.weight)
        faset.step(batch, 2)
        assert_close(net.pool.score.weight, weight - 0.1 * slope)


def test_kept_features_give_the_same_second_stage(net, batch):
    x, y = batch
    faset = FASet(net, loss_fn=F.mse_loss)
    features = faset.encode(x)
    assert not features.requires_grad
    gradients = []
    for loss in (faset.stage2_loss(x, y), faset.stage2_loss(features, y, encoded=True)):
        net.zero_grad()
        loss.backward()
        gradients.append((loss.detach(), net.pool.score.weight.grad.clone()))
    assert_close(gradients[0], gradients[1])


def test_features_are_kept_without_dropout_and_modes_come_back(net, batch):
    net.encoder.append(nn.Dropout(0.5))
    net.decoder.eval()
    features = FASet(net).encode(batch[0])
    assert features.count_nonzero() == features.numel()
    assert net.encoder[-1].training and not net.decoder.training


@pytest.mark.parametrize("keep", [False, True])
def test_sequential_trains_one_group_after_the_other(net, batch, keep):
    faset = FASet(net, loss_fn=F.mse_loss, lr=0.01)
    history = faset.fit([batch, batch], epochs=10, keep_features=keep)
    assert [sorted(losses) for losses in history] == [[1]] * 6 + [[2]] * 4  # 31 of 50 epochs
    assert history[5][1] < history[0][1] and history[9][2] < history[6][2]
    assert [[*h] for h in faset.fit([batch], epochs=3, stage1_epochs=1)] == [[1], [2], [2]]


def test_keeping_features_changes_no_step(net, batch):
    other = copy.deepcopy(net)
    mask = torch.ones(5, 7, dtype=torch.bool)
    batches = [(*batch, mask)]
    kept = FASet(net, loss_fn=F.mse_loss).fit(batches, epochs=6, keep_features=True)
    assert_close(kept[-1][2], FASet(other, loss_fn=F.mse_loss).fit(batches, epochs=6)[-1][2])
    assert_close(net.pool.score.weight, other.pool.score.weight)


def test_alternating_has_both_stages_on_every_batch(net, batch):
    faset = FASet(net, loss_fn=F.mse_loss, lr=0.01)
    twin = copy.deepcopy(net)
    history = faset.fit([batch], epochs=2, schedule="alternating")
    assert [sorted(losses) for losses in history] == [[1, 2]] * 2
    by_hand = FASet(twin, loss_fn=F.mse_loss, lr=0.01)
    for stage in (1, 2, 1, 2):
        by_hand.step(batch, stage)
    assert changed(net, twin.state_dict()) == set()


def test_other_attention_can_be_named(net, batch):
    model = SetNetwork(net.encoder, MILPool(4), net.decoder)
    faset = FASet(model, [model.pool], loss_fn=F.mse_loss, lr=0.1)
    before = copy.deepcopy(model.state_dict())
    faset.step(batch, 2)
    assert {name.split(".")[0] for name in changed(model, before)} == {"pool"}


def test_absent_elements_are_not_encoded(net, batch):
    seen = []
    net.encoder.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[:, 2:4] = True
    features = net.encode(batch[0], mask)
    assert seen == [10]
    assert features[~mask].abs().max() == 0
    assert_close(features[mask], net.encoder(batch[0][mask]))


def test_errors_name_the_cause(net, batch):
    x, y = batch
    with pytest.raises(ValueError, match="model Linear holds no AttSets"):
        FASet(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="'auto' or a list of modules, got 'all'"):
        FASet(net, "all")
    with pytest.raises(ValueError, match="attention must lie in the model, MILPool does not"):
        FASet(net, [MILPool(4)])
    with pytest.raises(ValueError, match="attention must have parameters to train, got none"):
        FASet(SetNetwork(net.encoder, MeanPool(4), net.decoder), [])
    with pytest.raises(ValueError, match="no parameters besides attention"):
        FASet(AttSets(3))
    with pytest.raises(ValueError, match="loss_fn must be given here or to FASet"):
        FASet(net).stage1_loss(x, y)
    faset = FASet(net, loss_fn=F.mse_loss)
    with pytest.raises(ValueError, match=r"y must have a target for each of 5 sets, got \(4, 2\)"):
        faset.stage2_loss(x, y[:4])
    with pytest.raises(ValueError, match=r"x must be \(batch, n, \*element\), got shape \(5, 7\)"):
        faset.stage1_loss(x[..., 0], y)
    with pytest.raises(ValueError, match="stage must be 1 or 2, got 3"):
        faset.step(batch, 3)
    with pytest.raises(ValueError, match="schedule must be 'sequential' or 'alternating'"):
        faset.fit([batch], schedule="both")
    with pytest.raises(ValueError, match=r"stage1_epochs in 0 to epochs, got 3 and 4"):
        faset.fit([batch], epochs=3, stage1_epochs=4)
    with pytest.raises(ValueError, match="keep_features must be False"):
        faset.fit([batch], schedule="alternating", keep_features=True)
    with pytest.raises(ValueError, match="again and again, got an iterator"):
        faset.fit(iter([batch]))
    with pytest.raises(ValueError, match="at least one batch, got none"):
        faset.fit([])
    with pytest.raises(TypeError, match="Sequential has no encode"):
        FASet(nn.Sequential(net.encoder, net.pool), [net.pool]).encode(x)
    with pytest.raises(ValueError, match="at least one element"):
        net(x[:, :0])

import torch
from torch import nn

from workingpapers.kit.costs import costs


def test_each_form_is_timed_with_and_without_backward_and_its_memory_counted():
    x = torch.ones(256, 1024, requires_grad=True)
    layer = nn.Linear(1024, 1)
    grads, threads = [], []

    def line():
        grads.append(torch.is_grad_enabled())
        threads.append(torch.get_num_threads())
        return layer(x)

    found = costs({"line": line, "curve": x.exp}, {"line": [layer, x], "curve": [x]}, repeats=2)
    assert list(found) == ["line", "curve"]
    assert grads == [False] * 3 + [True] * 4  # warmed up, timed twice; again; and counted
    assert set(threads[:-1]) == {1}
    assert found["line"]["kept for backward (MiB)"] == 0  # it keeps what lives anyway
    assert found["curve"]["kept for backward (MiB)"] == 1  # the exponential, 256 x 1024 floats
    assert all(row["with backward (ms, median)"] > 0 for row in found.values())

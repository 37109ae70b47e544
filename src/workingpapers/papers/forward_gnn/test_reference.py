"""Every trainer against a second implementation: dense matrices, loops, nothing shared or kept."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from workingpapers.papers.forward_gnn import (
    ForwardGNN,
    ForwardLinkPredictor,
    Graph,
    LinkGraph,
    split_links,
)
from workingpapers.papers.forward_gnn.training import Step

N, K, WIDTH = 16, 3, 5
CONVS = ("gcn", "sage", "gat")
LR, DECAY, THETA = 0.02, 5e-4, 1.0


def toy(seed=0, nodes=N, classes=K, dtype=torch.float64):
    """A random graph with a loop, a node without neighbours and a one-way edge."""
    g = torch.Generator().manual_seed(seed)
    pair = torch.randint(nodes - 1, (2, 2 * nodes), generator=g)
    pair = torch.unique(pair[:, pair[0] < pair[1]], dim=1)
    extra = torch.tensor([[3, 0], [3, nodes - 2]])
    edges = torch.cat([pair, pair.flip(0), extra], dim=1)
    y = torch.arange(nodes) % classes
    order = torch.randperm(nodes - 6, generator=g) + 6
    masks = [torch.zeros(nodes, dtype=torch.bool) for _ in range(3)]
    masks[0][:6] = True
    masks[1][order[:4]] = True
    masks[2][order[4:]] = True
    x = torch.randn(nodes, WIDTH, generator=g, dtype=dtype)
    return Graph(x, edges, y, *masks)


def norm(x):
    return x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-8)


def matrix(edges, n):
    """a[i, j] counts the edges j -> i."""
    a = torch.zeros(n, n, dtype=torch.float64)
    for j, i in edges.T.tolist():
        a[i, j] += 1
    return a


def dense(conv, x, edges):
    """GCN, SAGE and GAT written with dense matrices."""
    p, n = dict(conv.named_parameters()), len(x)
    a = matrix(edges, n)
    if "lin_l.weight" in p:
        mean = a @ x / a.sum(1, keepdim=True).clamp(min=1)
        return mean @ p["lin_l.weight"].T + p["lin_l.bias"] + x @ p["lin_r.weight"].T
    a = a - torch.diag(torch.diag(a)) + torch.eye(n, dtype=a.dtype)
    h = x @ p["lin.weight"].T
    if "att_src" not in p:
        d = a.sum(1)
        return (a / (d[:, None] * d[None, :]).sqrt()) @ h + p["bias"]
    heads = []
    for k, part in enumerate(h.split(h.shape[1] // 4, dim=1)):
        logit = (part @ p["att_dst"][0, k])[:, None] + (part @ p["att_src"][0, k])[None, :]
        e = a * F.leaky_relu(logit, 0.2).exp()
        heads.append(e / e.sum(1, keepdim=True) @ part)
    return torch.cat(heads, dim=1) + p["bias"]


def layer(conv, x, edges):
    return F.relu(dense(conv, x, edges))


def joined(graph, nodes, labels, both_ways=True):
    n = len(graph)
    edges = [graph.edge_index, torch.stack([nodes, n + labels])]
    if both_ways:
        edges.append(torch.stack([n + labels, nodes]))
    return torch.cat(edges, dim=1)


def beside(graph, nodes, labels, virtual):
    rows = torch.full((len(graph), K), 1 / K, dtype=torch.float64)
    rows[nodes] = torch.eye(K, dtype=torch.float64)[labels]
    return torch.cat([rows, torch.eye(K, dtype=torch.float64)]) if virtual else rows


def adam(conv, decay=DECAY):
    return torch.optim.Adam(conv.parameters(), lr=LR, weight_decay=decay)


def update(loss, optimiser, losses):
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())


def bce(logits, target):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


class Setting:
    """What the reference needs of a model that is about to be fitted."""

    def __init__(self, graph, virtual, append, both_ways):
        self.graph, self.append, self.both_ways = graph, append, both_ways
        self.train = graph.train_mask.nonzero().flatten()
        self.labels = graph.y[self.train]
        self.edges = joined(graph, self.train, self.labels, both_ways)
        self.known = beside(graph, self.train, self.labels, True)
        self.x = torch.cat([graph.x, virtual])
        if append != "none":
            self.x = torch.cat([self.x, self.known], dim=1)

    def logits(self, z, nodes):
        return z[nodes] @ z[len(self.graph) :].T / 0.7

    def loss(self, z):
        return F.cross_entropy(self.logits(z, self.train), self.labels)

    def following(self, z):
        return torch.cat([z, self.known], dim=1) if self.append == "all" else z


def sf(s, convs, epochs):
    losses, x, total = [], s.x, 0
    for conv in convs:
        optimiser = adam(conv)
        for _ in range(epochs):
            update(s.loss(layer(conv, norm(x), s.edges)), optimiser, losses)
        z = layer(conv, norm(x), s.edges).detach()
        total = total + s.logits(z, torch.arange(N)).softmax(1)
        x = s.following(z)
    return losses, total


def climb(s, convs, states, visit, top, alternating=True):
    new = [None] * len(states)
    new[0] = states[0]
    depth = len(convs)
    for turn in [range(0, depth, 2), range(1, depth, 2)] if alternating else [range(depth)]:
        for j in turn:
            fresh = alternating
            below = new[j] if fresh and new[j] is not None else states[j]
            if s is not None and j:
                below = s.following(below)
            parts = [norm(below)]
            if j + 2 < len(states):
                above = new[j + 2] if fresh and new[j + 2] is not None else states[j + 2]
                parts.append(norm(above))
            z = visit(j, torch.cat(parts, dim=1))
            new[j + 1] = z.detach()
    if top is not None:
        new[-1] = top
    return new


def from_below(s, convs, first, edges, top):
    states = [first]
    for j, conv in enumerate(convs):
        below = s.following(states[j]) if s is not None and j else states[j]
        wide = conv.in_channels - below.shape[1]
        x = torch.cat([norm(below), torch.zeros(len(below), wide, dtype=below.dtype)], dim=1)
        states.append(layer(conv, x, edges).detach())
    return states if top is None else [*states, top]


def t2i(s, convs, epochs, alternating):
    losses, optimisers = [], [adam(conv) for conv in convs]
    states = from_below(s, convs, s.x, s.edges, s.known)

    def learn(j, x):
        z = layer(convs[j], x, s.edges)
        update(s.loss(z), optimisers[j], losses)
        return z

    for _ in range(epochs):
        states = climb(s, convs, states, learn, s.known, alternating)
    total, states = 0, from_below(s, convs, s.x, s.edges, s.known)
    for step in range(5):
        found = []

        def look(j, x, found=found):
            found.append(layer(convs[j], x, s.edges).detach())
            return found[-1]

        states = climb(s, convs, states, look, s.known, alternating)
        if step in (1, 3):
            total = total + sum(s.logits(z, torch.arange(N)).softmax(1) for z in found)
    return losses, total


def t2l(s, convs, epochs):
    losses, optimisers = [], [adam(conv) for conv in convs]

    def chain():
        states, x = [norm(s.x)], s.x
        for conv in convs:
            z = layer(conv, x, s.edges).detach()
            states.append(norm(z))
            x = s.following(z)
        return states

    def below(j, states):
        if j and s.append == "all":
            return norm(torch.cat([states[j], s.known], dim=1))
        return states[j]

    states = chain()
    for _ in range(epochs):
        new = [states[0]]
        for j, conv in enumerate(convs):
            z = layer(conv, below(j, states), s.edges)
            mixed = sum([z, *states[j + 2 :]]) / (1 + len(states[j + 2 :]))
            loss = s.loss(mixed)
            optimisers[j].zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(conv.parameters(), 1.0)
            optimisers[j].step()
            losses.append(loss.item())
            new.append(norm(z.detach()))
        states = new
    states, total = chain(), 0
    for j, conv in enumerate(convs):
        z = layer(conv, below(j, states), s.edges).detach()
        mixed = sum([z, *states[j + 2 :]]) / (1 + len(states[j + 2 :]))
        total = total + s.logits(mixed, torch.arange(N)).softmax(1)
    return losses, total


def ff(s, convs, epochs, wrong, asked, virtual):
    g, losses, total = s.graph, [], 0
    if virtual:
        worlds = [(s.x, joined(g, s.train, y, s.both_ways)) for y in [s.labels, *wrong]]
    else:
        labelled = [beside(g, s.train, y, False) for y in [s.labels, *wrong]]
        worlds = [(torch.cat([g.x, y], dim=1), g.edge_index) for y in labelled]
    for conv in convs:
        optimiser = adam(conv)
        for _ in range(epochs):
            logits = [layer(conv, norm(x), e)[s.train].square().sum(1) - THETA for x, e in worlds]
            negative = torch.stack([bce(logit, 0.0) for logit in logits[1:]]).mean()
            update(bce(logits[0], 1.0) + negative, optimiser, losses)
        if virtual:
            z = s.following(layer(conv, norm(worlds[0][0]), worlds[0][1]).detach())
            worlds = [(z, e) for _, e in worlds]
        else:
            worlds = [(layer(conv, norm(x), e).detach(), e) for x, e in worlds]
    given = (g.train_mask | g.val_mask).clone()
    given[asked] = False
    given = given.nonzero().flatten()
    columns = []
    for c in range(K):
        nodes = torch.cat([given, asked])
        labels = torch.cat([g.y[given], torch.full_like(asked, c)])
        x, e, total = s.x, joined(g, nodes, labels, s.both_ways), 0
        if not virtual:
            x, e = torch.cat([g.x, beside(g, nodes, labels, False)], dim=1), g.edge_index
        for conv in convs:
            z = layer(conv, norm(x), e).detach()
            total = total + z[:N].square().mean(1) - THETA
            x = s.following(z) if virtual else z
        columns.append(total)
    return losses, torch.stack(columns, dim=1)


QUICK = [  # each method once
    ("sf", "gat", 3, "all", True),
    ("ff-virtual", "sage", 2, "none", True),
    ("ff-label", "gcn", 2, "none", True),
    ("top2input", "gcn", 3, "none", False),
    ("top2loss", "sage", 4, "input", True),
]
ALL = [
    (method, conv, depth, append, both_ways)
    for method, (conv, depth), (append, both_ways) in itertools.product(
        ("sf", "ff-virtual", "ff-label", "top2input", "top2loss"),
        (("gcn", 3), ("sage", 2), ("gat", 2), ("gcn", 1), ("sage", 4)),
        (("none", True), ("input", False), ("all", True)),
    )
    if method != "ff-label" or append == "none"
]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALL)]


@pytest.mark.parametrize(("method", "conv", "depth", "append", "both_ways"), CASES)
def test_nodes_agree_with_the_reference(method, conv, depth, append, both_ways):
    graph = toy()
    losses = []
    alternating = depth != 4
    model = ForwardGNN(
        conv,
        8,
        depth,
        method,
        lr=LR,
        weight_decay=DECAY,
        patience=None,
        temperature=0.7,
        theta=THETA,
        num_negatives=None if depth > 1 else 1,
        append_label=append,
        bidirectional=both_ways,
        alternating=alternating,
        steps=5,
        storable=(1, 3),
        random_state=1,
    )
    start = model.fit(graph, epochs=0).layers_
    virtual, wrong = model.virtual_features_, model.negative_labels_
    for layer in start:  # biases that matter
        nn.init.normal_(next(p for n, p in layer.named_parameters() if "bias" in n), std=0.3)
    again = ForwardGNN(**{**model.get_params(), "conv": list(start)})

    def record(step: Step) -> None:
        losses.append(step.loss.item())

    again.fit(
        graph,
        epochs=3,
        virtual_features=virtual,
        negative_labels=wrong,
        on_step=record,
    )
    blank = virtual if virtual is not None else torch.zeros(K, WIDTH, dtype=torch.float64)
    s = Setting(graph, blank, append, both_ways)
    if method.startswith("ff"):
        asked = graph.test_mask.nonzero().flatten()
        wants, scores = ff(s, start, 3, wrong, asked, method == "ff-virtual")
        got = again.trainer_.goodness(again._read(None), asked)
        assert_close(again.scores(nodes=graph.test_mask), got[asked])
        assert len(wrong) == (K - 1 if depth > 1 else 1)
    else:
        wants, scores = {
            "sf": lambda: sf(s, start, 3),
            "top2input": lambda: t2i(s, start, 3, alternating),
            "top2loss": lambda: t2l(s, start, 3),
        }[method]()
        got = again.scores()
    assert_close(torch.tensor(losses), torch.tensor(wants))
    assert_close(got, scores)
    for ours, theirs in zip(again.layers_, start, strict=True):  # both have been trained by now
        for name, p in ours.named_parameters():
            assert_close(p, dict(theirs.named_parameters())[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("method", "decay"), [("forward", DECAY), ("ff", DECAY), ("top2input", 0)])
@pytest.mark.parametrize(
    ("conv", "depth"),
    [
        ("gcn", 3),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("sage", 2), ("gat", 1))),
    ],
)
def test_links_agree_with_the_reference(method, decay, conv, depth):
    graph = toy()
    rng = torch.Generator().manual_seed(0)
    parts = split_links(graph.edge_index, N, generator=rng)
    (pairs, labels), (asked, _) = parts["train"], parts["test"]
    labels = labels.double()
    edges = torch.cat([pairs[:, labels == 1], pairs[:, labels == 1].flip(0)], dim=1)
    data = LinkGraph(graph.x, edges, pairs, labels)
    model = ForwardLinkPredictor(
        conv, 8, depth, method, lr=LR, theta=THETA, steps=4, storable=[0, 3], random_state=0
    )
    start = model.fit(data, epochs=0).layers_
    losses, wants = [], []
    again = ForwardLinkPredictor(**{**model.get_params(), "conv": list(start)})
    again.fit(data, epochs=3, on_step=lambda step: losses.append(step.loss.item()))

    def logits(z, pairs):
        product = z[pairs[0]] * z[pairs[1]]
        return product.square().sum(1) - THETA if method == "ff" else product.sum(1)

    def loss(z):
        found = logits(z, pairs)
        if method == "ff":
            return bce(found[labels == 1], 1.0) + bce(found[labels == 0], 0.0)
        return F.binary_cross_entropy_with_logits(found, labels)

    scores = []
    optimisers = [adam(layer, decay) for layer in start]
    if method == "top2input":
        states = from_below(None, start, graph.x, edges, None)

        def learn(j, x):
            z = layer(start[j], x, edges)
            update(loss(z), optimisers[j], wants)
            return z

        for _ in range(3):
            states = climb(None, start, states, learn, None)
        states = from_below(None, start, graph.x, edges, None)
        for step in range(4):

            def look(j, x, step=step):
                z = layer(start[j], x, edges).detach()
                if step in (0, 3):
                    scores.append(logits(z, asked).sigmoid())
                return z

            states = climb(None, start, states, look, None)
    else:
        x = graph.x
        for conv, optimiser in zip(start, optimisers, strict=True):
            for _ in range(3):
                update(loss(layer(conv, norm(x), edges)), optimiser, wants)
            x = layer(conv, norm(x), edges).detach()
            scores.append(logits(x, asked).sigmoid())
    assert_close(torch.tensor(losses), torch.tensor(wants))
    assert_close(again.predict_proba(pairs=asked), torch.stack(scores).mean(0))

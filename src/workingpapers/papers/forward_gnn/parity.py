"""Our modules under the official names."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from workingpapers.kit.golden import answers
from workingpapers.papers.forward_gnn.classifier import ForwardGNN
from workingpapers.papers.forward_gnn.graphs import Graph, label_matrix
from workingpapers.papers.forward_gnn.links import LinkGraph
from workingpapers.papers.forward_gnn.method import class_graph
from workingpapers.papers.forward_gnn.official import from_official, to_official
from workingpapers.papers.forward_gnn.pairs import ForwardForward
from workingpapers.papers.forward_gnn.predictor import ForwardLinkPredictor
from workingpapers.papers.forward_gnn.topdown import TopToInput, TopToLoss
from workingpapers.papers.forward_gnn.training import Step

METHODS = {"sf": "sf", "vn": "ff-virtual", "la": "ff-label", "t2i": "top2input", "t2l": "top2loss"}
SPACED = ("vn", "la", "lp")  # where the official numbering counts layers without parameters


class _Record:
    """Losses and logits in the order of the calls, and the gradients of each layer's first step."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.logits: list[Tensor] = []
        self.first: dict[int, dict[str, Tensor]] = {}

    def __call__(self, step: Step) -> None:
        self.losses.append(step.loss)
        if step.positive is not None and step.negative is not None:
            self.logits.append(torch.stack([step.positive.mean(), step.negative.mean()]))
        if step.layer not in self.first:
            self.first[step.layer] = {
                name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                for name, p in step.conv.named_parameters()
            }

    def gradients(self, name: str, spaced: bool) -> dict[str, Tensor]:
        return {
            f"{name}/layers.{2 * layer + 1 if spaced else layer}.gnn_layer.gnn.{parameter}": grad
            for layer, grads in self.first.items()
            for parameter, grad in grads.items()
        }


def run(
    config: Mapping[str, Any], state: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Build our modules from the official `config`, load the official `state`, answer `inputs`.

    Shapes:
        x: `(n, f)`; edge_index: `(2, edges)`; y and masks, 0 or 1: `(n,)`; `<m>_virtual_feats`:
            `(k, f)`; `vn_neg_edge_index<c>`: `(2, edges)`; `la_neg_x<c>`: `(n, f + k)`;
            `lp_*_label_index`: `(2, pairs)`, `lp_*_label`: `(pairs,)`.
    """
    output: dict[str, Tensor] = {}
    mid: dict[str, Tensor] = {}
    grad: dict[str, Tensor] = {}
    masks = [inputs[f"{part}_mask"].bool() for part in ("train", "val", "test")]
    graph = Graph(inputs["x"], inputs["edge_index"], inputs["y"], *masks)
    for name in METHODS:
        if any(key.startswith(f"{name}/") for key in state):
            _classify(name, config, state, inputs, graph, output, mid, grad)
    for name, kinds in (("lp", ("FL", "FF")), ("lpt", ("",))):
        if any(key.startswith(f"{name}/") for key in state):
            for kind in kinds:
                _link(name, kind, config, state, inputs, output, grad)
    return answers(output, mid, grad)


def _own(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(f"{name}/"): value
        for key, value in state.items()
        if key.startswith(f"{name}/")
    }


def _classify(
    name: str,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    graph: Graph,
    output: dict[str, Tensor],
    mid: dict[str, Tensor],
    grad: dict[str, Tensor],
) -> None:
    assert graph.y is not None and graph.train_mask is not None and graph.test_mask is not None
    record, spaced = _Record(), name in SPACED
    model = ForwardGNN(
        from_official(_own(name, state)),
        config["h"],
        config["layers"],
        METHODS[name],
        lr=config["lr"],
        weight_decay=config["wd"],
        epochs=config["epochs"],
        patience=None,  # every epoch, and the last weights
        temperature=config["temperature"],
        theta=config["theta"],
        append_label=config["append"].get(name) or "none",
        bidirectional=config["direction"] == "bidirection",
        alternating=config["alternating"],
        steps=config["test_time_steps"],
        storable=config["storable"],
    )
    wrong = _wrong(name, config, inputs, graph)
    virtual = inputs.get(f"{name}_virtual_feats")
    before: list[list[Tensor]] = []

    def watch(step: Step) -> None:
        if not record.losses:
            before.extend(_states(model, graph))
        record(step)

    model.fit(graph, virtual_features=virtual, negative_labels=wrong, on_step=watch)
    grad |= record.gradients(name, spaced)
    trained = to_official(model.layers_, spaced=spaced)
    output |= {f"{name}_trained/{key}": value for key, value in trained.items()}
    output[f"{name}_losses"] = torch.stack(record.losses)
    if name == "sf":
        output["loss"] = record.losses[0].reshape(1)
    for states in before:
        mid |= {f"{name}_bottom_up{i}": state for i, state in enumerate(states)}
    test, truth = graph.test_mask.nonzero().flatten(), graph.y[graph.test_mask]

    def percent(scores: Tensor) -> Tensor:
        return 100 * (scores.argmax(dim=1) == truth).float().mean().reshape(1)

    trainer = model.trainer_
    known = model._read(None)
    if isinstance(trainer, ForwardForward):
        goodness = trainer.goodness(known, test)
        output[f"{name}_goodness"] = goodness
        output[f"{name}_mean_logits"] = torch.stack(record.logits)
        output[f"{name}_test_acc"] = percent(goodness[test])
    else:
        scores = model.scores(nodes=test)
        output[f"{name}_prob_sum"] = scores
        output[f"{name}_test_acc"] = percent(scores)
    _describe(name, model, graph, inputs, output)
    if name == "sf":
        assert not isinstance(trainer, ForwardForward | TopToInput | TopToLoss)
        total = torch.zeros_like(scores)
        for layer, probabilities in enumerate(trainer.layer_probabilities(known, test)):
            total = total + probabilities
            output[f"sf_probs_layer{layer}"] = probabilities
            output[f"sf_test_acc_layer{layer}"] = percent(total)


def _wrong(
    name: str, config: Mapping[str, Any], inputs: Mapping[str, Tensor], graph: Graph
) -> Tensor | None:
    """Read the wrong classes of the training nodes from the negative graphs or features."""
    assert graph.train_mask is not None
    train, n = graph.train_mask.nonzero().flatten(), len(graph)
    found = []
    for c in range(min(config["num_negs"], config["k"] - 1)):
        if f"vn_neg_edge_index{c}" in inputs and name == "vn":
            edges = inputs[f"vn_neg_edge_index{c}"][:, graph.edge_index.shape[1] :]
            into = edges[:, edges[1] >= n]
            of = into.new_full((n,), -1)
            of[into[0]] = into[1] - n
            found.append(of[train])
        elif f"la_neg_x{c}" in inputs and name == "la":
            found.append(inputs[f"la_neg_x{c}"][train, graph.x.shape[1] :].argmax(dim=1))
    return torch.stack(found) if found else None


def _states(model: ForwardGNN, graph: Graph) -> Sequence[list[Tensor]]:
    """The states that top-down training starts from."""
    trainer, known = model.trainer_, model._with_known_labels(graph)
    assert known.y is not None
    if isinstance(trainer, TopToInput):
        ladder, _ = trainer.ladder(known, known.y)
        assert ladder.top is not None
        return [[*ladder.bottom_up(), ladder.top]]
    return [trainer.states(known, known.y)] if isinstance(trainer, TopToLoss) else []


def _describe(
    name: str,
    model: ForwardGNN,
    graph: Graph,
    inputs: Mapping[str, Tensor],
    output: dict[str, Tensor],
) -> None:
    """What went in: augmented graphs, label matrices, and how many probabilities were added."""
    trainer, known = model.trainer_, model._read(None)
    assert known.y is not None
    if name == "la":
        labels = label_matrix(
            model.train_nodes_,
            model.train_labels_,
            len(graph),
            model.num_classes_,
            virtual=False,
            like=graph.x,
        )
        output["la_pos_x"] = torch.cat([graph.x, labels], dim=1)
        return
    virtual = model.virtual_features_
    assert virtual is not None
    on, (first,) = class_graph(
        known,
        known.y,
        virtual,
        bidirectional=model.bidirectional,
        append_label=model.append_label,
        asked=None,
    )
    if name == "sf":
        output |= {"sf_aug_x": first, "sf_aug_edge_index": on.edge_index}
    elif name == "vn":
        output |= {"vn_pos_x": first, "vn_pos_edge_index": on.edge_index}
        assert model.negative_labels_ is not None
        output |= {f"vn_neg_x{c}": first for c in range(len(model.negative_labels_))}
    else:
        count = len(model.layers_)
        if isinstance(trainer, TopToInput):
            count *= len(trainer.storable)
        output |= {f"{name}_onehot": on.known, f"{name}_num_probs": torch.tensor([count])}


def _link(
    name: str,
    kind: str,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    output: dict[str, Tensor],
    grad: dict[str, Tensor],
) -> None:
    record, spaced = _Record(), name in SPACED
    task = f"{name}_{kind}" if kind else name
    method = {"FL": "forward", "FF": "ff", "": "top2input"}[kind]
    model = ForwardLinkPredictor(
        from_official(_own(name, state)),
        config["h"],
        config["layers"],
        method,
        lr=config["lr"],
        weight_decay=0.0 if method == "top2input" else config["wd"],
        epochs=config["epochs"],
        patience=None,
        theta=config["theta"],
        alternating=config["alternating"],
        steps=config["test_time_steps"],
        storable=config["storable"],
    )
    edges = inputs["lp_train_edge_index"]
    learn = (inputs["lp_train_label_index"], inputs["lp_train_label"])
    asked = LinkGraph(inputs["x"], edges, inputs["lp_eval_label_index"], inputs["lp_eval_label"])
    model.fit(LinkGraph(inputs["x"], edges, *learn), on_step=record)
    grad |= record.gradients(task, spaced)
    trained = to_official(model.layers_, spaced=spaced)
    output |= {f"{task}_trained/{key}": value for key, value in trained.items()}
    scores = model.predict_proba(asked)
    # The official mean counts a layer without parameters beside each convolution as a zero.
    output[f"{task}_scores"] = scores / 2 if spaced else scores
    output[f"{task}_auc"] = torch.tensor([model.score(asked)])

"""Our modules under the official names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from workingpapers.kit.golden import answers
from workingpapers.papers.attsets.faset import FASet
from workingpapers.papers.attsets.method import AttSets
from workingpapers.papers.attsets.network import MultiViewReconstructor
from workingpapers.papers.attsets.voxels import voxel_loss


def run(
    config: Mapping[str, Any], state: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Build our module from the official `config`, load the official `state`, answer `inputs`.

    Shapes:
        images: `(batch, n, size, size, 3)`; voxels: `(batch, 32, 32, 32)`; `<module>.x`:
            `(batch, n, dim)`.
    """
    output: dict[str, Tensor] = {}
    mid: dict[str, Tensor] = {}
    grad: dict[str, Tensor] = {}
    for name in config.get("module_calls", {}):
        own = {key: value for key, value in state.items() if key.startswith(f"{name}/")}
        pool = AttSets.from_official(own)
        output[f"{name}.y"], output[f"{name}.scores"] = pool(
            inputs[f"{name}.x"], return_scores=True
        )
    if "images" not in inputs:
        return answers(output)
    network = {key: value for key, value in state.items() if key.startswith("r2n/")}
    net = MultiViewReconstructor.from_official(network, image_size=config["image"])
    images, voxels = inputs["images"].permute(0, 1, 4, 2, 3), inputs["voxels"]
    for name, views in (("multi", images), ("single", images[:, :1])):
        features = net.encode(views)
        fused, scores = net.pool(features, return_scores=True)
        logits = net.decode(fused)
        mid[f"{name}.features"] = features
        output |= {
            f"{name}.aggregated": fused,
            f"{name}.scores": scores,
            f"{name}.voxels": logits.sigmoid(),
            f"{name}.loss": voxel_loss(logits, voxels).reshape(1),
        }
    faset = FASet(net, loss_fn=voxel_loss)
    for stage, loss_of in (("stage1", faset.stage1_loss), ("stage2", faset.stage2_loss)):
        net.zero_grad()
        loss = loss_of(images, voxels)
        loss.backward()
        output[f"{stage}.loss"] = loss.reshape(1)
        gradients = net.to_official(gradients=True)
        grad |= {f"{stage}/{key}": gradient for key, gradient in gradients.items()}
    return answers(output, mid, grad)

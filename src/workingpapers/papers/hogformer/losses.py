"""What HOGformer is trained with: HOG descriptors as a layer, and losses from them.

    (13) θ = abs(atan2(Sy g, Sx g + 1e-8)),   m = sqrt((Sx g)² + (Sy g)² + 1e-8),   g the grey image
    (14) H_i = mean over a cell of m max(0, 1 - abs(θ - iπ/n) / (π/n))            circular in π
    (15) descriptor: all H, or 2x2 cells at a time divided by their norm + 1e-8
    (16) loss = mean abs(p - t) + mean_b (1 - ρ_b) / 2 + distance of descriptors     ρ: correlation

Source: as method.py [code]. Settings: I (weather) has plain cells and squares in the last term,
III and IV (three and five degradations) blocks of 2x2 and absolute values.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from workingpapers.papers.hogformer.method import sobel


class HOGLayer(nn.Module):
    """Describe images by histograms of oriented gradients, differentiably.

    With `classic` it is the descriptor of Dalal and Triggs as scikit-image computes it (block
    normalisation "L2"); then orientations are counted in one bin each, so gradients flow through
    the strengths only.

    Args:
        nbins: number of orientations.
        cell_size: side of a cell in pixels; what is left over at the right and bottom is ignored.
        block_size: 1 for cells as they are, 2 for normalised blocks of 2x2 cells. Where there are
            fewer than 2x2 cells, cells are answered as they are.
        signed: tell a rising edge from a falling one.
        classic: central differences, no gradient at the border, angles modulo π and hard bins
            from 0 instead of Sobel filters, reflected angles and soft bins around 0 [ours].

    Source: equations (13) to (15); HOGLayer [code].

    Shapes:
        image: `(batch, 1 or 3, height, width)`; three channels are made grey.
        output: `(batch, nbins * cells)`, orientations first; or with blocks
        `(batch, 4 nbins * blocks)`.
    """

    kernel: Tensor

    def __init__(
        self,
        nbins: int = 9,
        cell_size: int = 8,
        block_size: int = 1,
        signed: bool = False,
        *,
        classic: bool = False,
    ) -> None:
        super().__init__()
        if nbins < 1 or cell_size < 1:
            raise ValueError(f"nbins and cell_size must be positive, got {nbins} and {cell_size}")
        if block_size not in (1, 2):
            raise ValueError(f"block_size must be 1 or 2, got {block_size}")
        self.nbins, self.cell_size, self.block_size = nbins, cell_size, block_size
        self.signed, self.classic = signed, classic
        self.register_buffer("kernel", sobel(), persistent=False)

    def extra_repr(self) -> str:
        return (
            f"nbins={self.nbins}, cell_size={self.cell_size}, block_size={self.block_size}, "
            f"signed={self.signed}, classic={self.classic}"
        )

    def cells(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch bins rows columns"]:
        """Answer the histograms of the cells, where they are.

        Source: equations (13) and (14).

        Shapes:
            image: `(batch, 1 or 3, height, width)`.
            output: `(batch, nbins, height // cell_size, width // cell_size)`.
        """
        if image.shape[1] not in (1, 3):
            raise ValueError(f"image must have 1 or 3 channels, got shape {tuple(image.shape)}")
        if min(image.shape[-2:]) < self.cell_size:
            raise ValueError(
                f"image must have a cell of {self.cell_size} pixels, got {tuple(image.shape)}"
            )
        grey = image
        if image.shape[1] == 3:
            share = image.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
            grey = (image * share).sum(dim=1, keepdim=True)
        circle = 2 * math.pi if self.signed else math.pi
        width = circle / self.nbins
        if self.classic:
            gx, gy = torch.zeros_like(grey), torch.zeros_like(grey)
            gx[..., 1:-1] = grey[..., 2:] - grey[..., :-2]
            gy[..., 1:-1, :] = grey[..., 2:, :] - grey[..., :-2, :]
            with torch.no_grad():
                at = torch.atan2(gy, gx).remainder(circle) / width
                bins = torch.arange(self.nbins, device=grey.device).view(-1, 1, 1)
                share = (at.floor() % self.nbins == bins).to(grey)
        else:
            gx, gy = F.conv2d(grey, self.kernel, padding=1).split(1, dim=1)
            theta = torch.atan2(gy, gx + 1e-8)
            theta = theta if self.signed else theta.abs()
            centres = torch.arange(self.nbins, device=grey.device, dtype=grey.dtype) * width
            off = (theta - centres.view(-1, 1, 1)).abs()
            share = (1 - torch.minimum(off, circle - off) / width).relu()
        square = gx.square() + gy.square()
        # the classic one has no gradient on flat ground; a root of 0 has no finite derivative
        strength = (square.clamp(min=1e-16) if self.classic else square + 1e-8).sqrt()  # (13)
        return F.avg_pool2d(share * strength, self.cell_size)  # (14)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        cells = self.cells(image)
        if self.block_size == 1 or min(cells.shape[-2:]) < 2:
            return cells.flatten(1)
        blocks = F.unfold(cells, 2).mT  # batch, blocks, 4 nbins
        norm = torch.linalg.vector_norm(blocks, dim=-1, keepdim=True)
        return (blocks / (norm + 1e-8)).flatten(1)  # (15)


class HOGLoss(nn.Module):
    """Compare the HOG descriptors of two images.

    Args:
        loss: "l2" for the mean of squares, "l1" for that of absolute values.
        nbins: see `HOGLayer`.
        cell_size: see `HOGLayer`.
        block_size: see `HOGLayer`.
        signed: see `HOGLayer`.

    Source: equation (16); HOGLoss [code].

    Shapes:
        restored, target: `(batch, 1 or 3, height, width)`; output: a scalar.
    """

    def __init__(
        self,
        loss: str = "l2",
        nbins: int = 9,
        cell_size: int = 8,
        block_size: int = 1,
        signed: bool = False,
    ) -> None:
        super().__init__()
        if loss not in ("l1", "l2"):
            raise ValueError(f"loss must be 'l1' or 'l2', got {loss!r}")
        self.loss = loss
        self.hog_layer = HOGLayer(nbins, cell_size, block_size, signed)

    def forward(
        self,
        restored: Float[Tensor, "batch channels height width"],
        target: Float[Tensor, "..."],
    ) -> Float[Tensor, ""]:
        _check(restored, target)
        got, wanted = self.hog_layer(restored), self.hog_layer(target)
        return F.mse_loss(got, wanted) if self.loss == "l2" else F.l1_loss(got, wanted)


class PearsonLoss(nn.Module):
    """Answer 0 where images rise and fall together and 1 where they do the opposite.

    Samples whose correlation is not finite are left out; if none is left the loss is 0.

    Source: equation (16); the correlation loss of Histoformer [code].

    Shapes:
        restored, target: `(batch, ...)` alike; output: a scalar.
    """

    def forward(
        self, restored: Float[Tensor, "batch *rest"], target: Float[Tensor, "..."]
    ) -> Float[Tensor, ""]:
        _check(restored, target)
        x, y = restored.flatten(1), target.flatten(1)
        x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
        norms = torch.linalg.vector_norm(x, dim=1) * torch.linalg.vector_norm(y, dim=1)
        rho = (x * y).sum(dim=1) / (norms + 1e-6)
        rho = rho[rho.isfinite()]
        return ((1 - rho) / 2).mean() if len(rho) else restored.new_zeros(())


class HOGformerLoss(nn.Module):
    """Train any restorer with the paper's loss: absolute error, correlation and HOG, unweighted.

    Args:
        setting: "I" for adverse weather, "III" or "IV" for three or five degradations.
        hog: whether the HOG term counts. An attribute too: the official training of settings III
            and IV switches it off for its last 5 epochs.

    Source: equation (16) [code].

    Shapes:
        restored, target: `(batch, 1 or 3, height, width)`; output: a scalar.
    """

    def __init__(self, setting: str = "I", *, hog: bool = True) -> None:
        super().__init__()
        if setting not in ("I", "III", "IV"):
            raise ValueError(f"setting must be 'I', 'III' or 'IV', got {setting!r}")
        self.setting, self.hog = setting, hog
        self.pearson = PearsonLoss()
        self.descriptors = HOGLoss("l2") if setting == "I" else HOGLoss("l1", block_size=2)

    def parts(
        self,
        restored: Float[Tensor, "batch channels height width"],
        target: Float[Tensor, "..."],
    ) -> dict[str, Float[Tensor, ""]]:
        """Answer the terms by name, "l1", "pearson" and, where it counts, "hog".

        Source: equation (16).

        Shapes:
            restored, target: `(batch, 1 or 3, height, width)`; output: scalars.
        """
        _check(restored, target)
        terms = {"l1": F.l1_loss(restored, target), "pearson": self.pearson(restored, target)}
        if self.hog:
            terms["hog"] = self.descriptors(restored, target)
        return terms

    def forward(
        self,
        restored: Float[Tensor, "batch channels height width"],
        target: Float[Tensor, "..."],
    ) -> Float[Tensor, ""]:
        return torch.stack(list(self.parts(restored, target).values())).sum()


def _check(restored: Tensor, target: Tensor) -> None:
    if restored.shape != target.shape:
        raise ValueError(
            f"target must have the shape of restored, {tuple(restored.shape)}, "
            f"got {tuple(target.shape)}"
        )

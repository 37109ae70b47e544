"""Semi-real cubes: what a photograph shows, in spectra that were measured.

No cube of real reflectances can be had without a download by hand. Here every pixel keeps the
brightness of a photograph and gets the measured spectrum that its colour is nearest to, softly,
so that spectra mix as they do in a sensor's pixel. Spectra are real, the mixing is not.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from workingpapers.papers.hsdt.spectra import reflectances

TEMPERATURE = 0.004  # of the soft choice, in squared chromaticity
_PEAKS = ((600.0,), (540.0,), (450.0,))  # of a camera's red, green and blue, nm [ours]
_WIDTH = 35.0


def visible(bands: int = 31) -> Float[Tensor, " bands"]:
    """Spread so many wavelengths evenly over 400 to 700 nm, as CAVE's and ICVL's 31 are."""
    return torch.linspace(400, 700, bands)


def semi_real(
    picture: Float[Tensor, "..."], wavelengths: Float[Tensor, " bands"] | None = None
) -> Float[Tensor, "bands h w"]:
    """Turn a photograph into a hyperspectral cube with measured spectra.

    Args:
        picture: red, green and blue as a camera stores them, 0 to 1.
        wavelengths: of the bands in nanometres, 380 to 780; 31 of 400 to 700 unless given.

    Source: [ours], with 24 reflectances measured by Ohta (1997).

    Shapes:
        picture: `(3, h, w)`; wavelengths: `(bands,)`; output: `(bands, h, w)` in 0 to 1.

    >>> semi_real(torch.rand(3, 4, 5)).shape
    torch.Size([31, 4, 5])
    """
    if picture.dim() != 3 or len(picture) != 3:
        raise ValueError(f"picture must be (3, height, width), got shape {tuple(picture.shape)}")
    grid = visible(61)
    fine = reflectances(grid)
    curves = torch.exp(-(((grid - torch.tensor(_PEAKS)) / _WIDTH) ** 2) / 2)
    patches = fine @ (curves / curves.sum(dim=1, keepdim=True)).mT  # 24, colours
    linear = picture.flatten(1).mT.clamp(0, 1) ** 2.2  # pixels, colours
    distance = torch.cdist(_chromaticity(linear), _chromaticity(patches)) ** 2
    spectra = reflectances(visible() if wavelengths is None else wavelengths)
    spectra = spectra / fine.mean(dim=1, keepdim=True)  # brightness comes from the pixel alone
    cube = (-distance / TEMPERATURE).softmax(dim=1) @ spectra * linear.mean(dim=1, keepdim=True)
    top = cube.flatten().kthvalue(1 + int(0.999 * (cube.numel() - 1))).values.clamp(min=1e-6)
    return (cube / top).clamp(max=1).mT.unflatten(1, picture.shape[1:]).contiguous()


def _chromaticity(colours: Tensor) -> Tensor:
    return colours / colours.sum(dim=1, keepdim=True).clamp(min=1e-6)

"""HSDT: a denoiser of hyperspectral cubes whose bands attend to one another."""

from workingpapers.papers.hsdt import add_noise, metrics
from workingpapers.papers.hsdt.cubes import semi_real
from workingpapers.papers.hsdt.method import GSSA, SMFFN, S3Conv
from workingpapers.papers.hsdt.network import HSDT, from_official, hsdt_l, hsdt_m, hsdt_s
from workingpapers.papers.hsdt.restoration import restore
from workingpapers.papers.hsdt.storage import load, save

__all__ = [
    "GSSA",
    "HSDT",
    "SMFFN",
    "S3Conv",
    "add_noise",
    "from_official",
    "hsdt_l",
    "hsdt_m",
    "hsdt_s",
    "load",
    "metrics",
    "restore",
    "save",
    "semi_real",
]

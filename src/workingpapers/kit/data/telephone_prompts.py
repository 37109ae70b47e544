"""What telephone exchanges say: recorded prompts in five languages by four people, with their text.

The core sounds of Asterisk, 8 kHz. English and Spanish are the same speaker.
"""

import gzip
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from workingpapers.kit.data.source import DebianPackage

_SOUNDS = "usr/share/asterisk/sounds/{}/**/*.wav"
_TEXTS = "usr/share/doc/asterisk-core-sounds-{0}/core-sounds-{0}.txt.gz"
_VOICES = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}

SOURCE = DebianPackage(
    name="telephone_prompts",
    package="asterisk-core-sounds-en-wav",
    version="1.6.1-1",
    further=(
        ("asterisk-core-sounds-en", "1.6.1-1"),
        ("asterisk-core-sounds-es-wav", "1.6.1-1"),
        ("asterisk-core-sounds-es", "1.6.1-1"),
        ("asterisk-core-sounds-fr-wav", "1.6.1-1"),
        ("asterisk-core-sounds-fr", "1.6.1-1"),
        ("asterisk-core-sounds-it-wav", "1.6.1-1"),
        ("asterisk-core-sounds-it", "1.6.1-1"),
        ("asterisk-core-sounds-ru-wav", "1.6.1-1"),
        ("asterisk-core-sounds-ru", "1.6.1-1"),
    ),
    files={
        _SOUNDS.format("en_US_f_Allison"): (
            "e3ddb8eb01fea764a28e415f8e8a84009cd42e19f8ff3b561c91d5b3a584c843"
        ),
        _TEXTS.format("en"): ("4a5c1fea255e06020acd67efe37d162d0f0458f685efe578d224449f8e7f0bb4"),
        _SOUNDS.format("es_MX_f_Allison"): (
            "00972147518253fa28c4f33008b694f70824a955a7c8e199c396fcef4f6b49c5"
        ),
        _TEXTS.format("es"): ("6e5f5280ce3808400ac20a918249a2a1cbe5e5fcf9b9552fad4dda004b8017ae"),
        _SOUNDS.format("fr_CA_f_June"): (
            "93bf2c54c781fa8b8f063a73f3465938e2aa72ceb0ab69f821619b9dcd4a0938"
        ),
        _TEXTS.format("fr"): ("37cd33323ad139b0c739102f36c42c1e68ebdd92231f664c355d85c49b07772c"),
        _SOUNDS.format("it_IT_m_Carlo"): (
            "964c0d15c263d41223c0c6461bf34227fc83de46d056033ac4a0b9c22e1a0acf"
        ),
        _TEXTS.format("it"): ("b1ed073c7790b84c1635f9a581f23256ec664b4bc018fe3a39770e188d400b18"),
        _SOUNDS.format("ru_RU_f_IvrvoiceRU"): (
            "83a461f97e5dda915dfce3f377ab9301a7150a904ea6447d1620cd75efd6e25a"
        ),
        _TEXTS.format("ru"): ("2398d652926d39c1dd75260fb36dcef907c4590031ebfd89df761a4e5efa46f0"),
    },
    licence="CC BY-SA 3.0 (en, es, fr), CC BY 3.0 (it, ru)",
    megabytes=97.7,
    about="131 minutes of recorded telephone prompts with text, 8 kHz: en, es, fr, it, ru",
)


@dataclass(frozen=True, eq=False)
class Prompt:
    """One recording."""

    name: str  # "digits/1", "letters/a", "vm-goodbye"
    text: str  # empty for the few that have none: tones, silence
    sound: Float32[Tensor, " samples"]  # -1 to 1, at 8,000 samples a second


def telephone_prompts(language: str = "en", root: Path | None = None) -> list[Prompt]:
    """Read all prompts of one language, by name.

    Args:
        language: en, es, fr, it or ru.
        root: a folder that stands for `/` to read from instead; its content is not verified.
    """
    if language not in _VOICES:
        raise ValueError(f"language must be one of {', '.join(_VOICES)}, got {language!r}")
    base = SOURCE.base() if root is None else root
    texts: dict[str, str] = {}
    with gzip.open(base / _TEXTS.format(language), "rt", encoding="utf-8-sig") as file:
        for line in file:
            name, colon, text = line.partition(":")
            if colon and not name.startswith(";"):
                texts.setdefault(name.strip(), text.strip())  # Spanish 10 is listed as a second 0
    folder = base / f"usr/share/asterisk/sounds/{_VOICES[language]}"
    names = sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.wav"))
    return [Prompt(name, texts.get(name, ""), _sound(folder / f"{name}.wav")) for name in names]


def _sound(path: Path) -> Float32[Tensor, " samples"]:
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getsampwidth(), file.getnchannels()) != (8000, 2, 1):
            raise ValueError(f"{path} must have 8 kHz, 16 bits and one channel")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return torch.from_numpy(samples.astype(np.float32) / 2**15)

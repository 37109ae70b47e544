"""Does the wheel carry what an installed copy needs, and leave out what it does not?"""

import sys
import zipfile

WANTED = (
    "workingpapers/py.typed",
    "workingpapers/papers/attsets/card.toml",
    "workingpapers/papers/attsets/evidence.json",
    "workingpapers/hub/edition/2025-12-31.json",
    "workingpapers/hub/search/vocabulary.txt.gz",
    "workingpapers/cli/folder/card.toml.in",
)


def main(wheel: str) -> str:
    names = zipfile.ZipFile(wheel).namelist()
    missing = [name for name in WANTED if name not in names]
    missing += [e for e in (".html", ".css", ".js") if not any(n.endswith(e) for n in names)]
    strays = [n for n in names if n.rsplit("/", 1)[-1].startswith("test_") and n.endswith(".py")]
    strays += [n for n in names if n.endswith("golden.safetensors")]
    if missing or strays:
        sys.exit(f"wheel lacks {missing}, should not carry {strays}")
    return f"wheel: {len(names)} files, nothing missing\n"


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1]))

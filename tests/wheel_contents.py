"""Does the wheel carry what an installed copy needs, and leave out what it does not?"""

import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
wanted = [
    "workingpapers/py.typed",
    "workingpapers/papers/attsets/card.toml",
    "workingpapers/papers/attsets/evidence.json",
    "workingpapers/hub/edition/2025-12-31.json",
    "workingpapers/hub/search/vocabulary.txt.gz",
    "workingpapers/cli/folder/card.toml.in",
]
missing = [name for name in wanted if name not in names]
missing += [
    f"…{end}" for end in (".html", ".css", ".js") if not any(n.endswith(end) for n in names)
]
strays = [
    n for n in names if n.rsplit("/", 1)[-1].startswith("test_") or n.endswith("golden.safetensors")
]
if missing or strays:
    sys.exit(f"wheel lacks {missing}, should not carry {strays}")
sys.stdout.write(f"wheel: {len(names)} files, nothing missing\n")

"""Photographs the page for the README and the docs: `python docs/screenshots.py`.

Serves the bundled edition with today's evidence from a temporary folder, and writes
`docs/_static/screens/<view>-<theme>-<width>.png`. Needs the extras `hub` and `test`, Pillow and
Chromium.
"""

import io
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright

from workingpapers.core import library
from workingpapers.hub.app import create_app
from workingpapers.hub.settings import Settings

SCREENS = Path(__file__).parent / "_static" / "screens"
SIZES = {360: 780, 768: 1000, 1440: 1000}
THEMES = ("light", "dark")


@contextmanager
def served() -> Iterator[str]:
    """The page on a free port, for as long as the block runs."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.close()
        base = f"http://127.0.0.1:{port}"
        home = Path(folder)
        app = create_app(Settings(home, f"sqlite:///{home / 'hub.sqlite'}", base_url=base))
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.1)
        try:
            yield base
        finally:
            server.should_exit = True
            thread.join()


def views() -> dict[str, str]:
    """What is photographed: name and path. The paper is one that has a card, where there is one."""
    held = library.slugs()
    slug = "evit" if "evit" in held or not held else held[0]
    paper = library.card(slug).paper.removeprefix("arxiv:") if held else "2202.07800"
    return {
        "edition": "/",
        "paper": f"/papers/{paper}",
        "search": "/search?q=make+vision+transformers+faster",
        "evidence": "/evidence",
        "trending": "/trending?at=2025-12-31",
        "ranking": "/ranking",
        "changes": "/changes",
        "sign-in": "/sign-in",
    }


def main() -> None:
    """Take all pictures, in few enough colours to stay small."""
    SCREENS.mkdir(parents=True, exist_ok=True)
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    args = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    total = 0
    with served() as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=args)
        for theme in THEMES:
            for width, height in SIZES.items():
                size = {"width": width, "height": height}
                page = browser.new_page(viewport=size, color_scheme=theme)
                for name, where in views().items():
                    page.goto(base + where)
                    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
                    target = SCREENS / f"{name}-{theme}-{width}.png"
                    shot.quantize(255, dither=Image.Dither.NONE).save(target, optimize=True)
                    total += target.stat().st_size
                page.close()
        browser.close()
    print(f"{SCREENS}: {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

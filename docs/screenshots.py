"""Photographs the page for the README and the docs: `python docs/screenshots.py`.

Serves the bundled edition with today's evidence from a temporary folder, and writes
`docs/_static/screens/<view>-<theme>-<width>.png`: the main views in all sizes and both themes, the
others wide and light, and narrow and dark. Needs the extras `hub` and `test`, Pillow and Chromium.
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
from itertools import product
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from workingpapers.core import library
from workingpapers.hub.app import create_app
from workingpapers.hub.hub import Hub
from workingpapers.hub.people.signing import Admitted
from workingpapers.hub.settings import Settings

SCREENS = Path(__file__).parent / "_static" / "screens"
SIZES = {360: 780, 768: 1000, 1440: 1000}
THEMES = ("light", "dark")
FEW = {(1440, "light"), (360, "dark")}  # of the views beside the main ones


@contextmanager
def served() -> Iterator[tuple[str, str]]:
    """The page on a free port, for as long as the block runs, and an administrator's session."""
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
            yield base, signed_in(app.state.hub)
        finally:
            server.should_exit = True
            thread.join()


def signed_in(hub: Hub) -> str:
    """Make the administrator's account, with something to show; returns the session's secret."""
    signing, community = hub.people.signing, hub.people.community
    link = signing.first_link()
    assert link is not None
    admitted = signing.by_first(link, "ada@lab.example")
    assert isinstance(admitted, Admitted)
    ada = community.describe(admitted.account, "ada", "Ada Stone", reading_public=True)
    for entry in hub.newest(3):
        community.vote(ada, entry.paper.id)
        community.keep(ada, entry.paper.id)
    community.comment(ada, paper(), "Does the **speed-up** hold at 0.9, too?")
    hub.jobs.ask_check(ada, library.slugs()[0], library.slugs())
    return admitted.secret


def paper() -> str:
    """The paper that is photographed: one that has a card, where there is one."""
    held = library.slugs()
    slug = "hogformer" if "hogformer" in held or not held else held[0]
    return library.card(slug).paper if held else "arxiv:2202.07800"


def further() -> dict[str, str]:
    """The views beside the main ones: name and path."""
    return {
        "week": "/week/2026-W01",
        "month": "/month/2025-12",
        "topics": "/topics",
        "topic": "/topics/image%20restoration",
        "author": "/authors/Kurt%20Keutzer",
        "filters": "/search?q=claim%3Aholds+restoration",
        "verdicts": "/about/verdicts",
        "api": "/api/docs",
        "newsletter": "/newsletter",
        "preview": "/newsletter/preview?cadence=weekly&kind=search&query=mixture+of+experts",
    }


def signed() -> dict[str, str]:
    """What only who has signed in sees; the administrator's pages among it."""
    return {
        "person": "/people/ada",
        "account": "/account",
        "submit": "/submit",
        "admin": "/admin",
        "jobs": "/admin/jobs",
        "votes": "/admin/votes",
    }


def views() -> dict[str, str]:
    """The main views: name and path."""
    return {
        "edition": "/",
        "paper": f"/papers/{paper().removeprefix('arxiv:')}",
        "search": "/search?q=make+vision+transformers+faster",
        "evidence": "/evidence",
        "trending": "/trending?at=2025-12-31",
        "ranking": "/ranking",
        "changes": "/changes",
        "sign-in": "/sign-in",
    }


def photographed(page: Page, address: str, name: str) -> int:
    """Write one picture; returns its bytes."""
    answer = page.goto(address)
    assert answer is not None and answer.ok, f"{address}: {answer and answer.status}"
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    target = SCREENS / f"{name}.png"
    shot.quantize(255, dither=Image.Dither.NONE).save(target, optimize=True)
    return target.stat().st_size


def main() -> None:
    """Take all pictures, in few enough colours to stay small."""
    SCREENS.mkdir(parents=True, exist_ok=True)
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    args = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    total = 0
    with served() as (base, secret), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=args)
        for theme, (width, height) in product(THEMES, SIZES.items()):
            size = {"width": width, "height": height}
            page = browser.new_page(viewport=size, color_scheme=theme)
            beside = (width, theme) in FEW
            shown = views() | (further() if beside else {})
            for name, where in shown.items():
                total += photographed(page, base + where, f"{name}-{theme}-{width}")
            page.context.add_cookies([{"name": "session", "value": secret, "url": base}])
            for name, where in signed().items() if beside else ():
                total += photographed(page, base + where, f"{name}-{theme}-{width}")
            page.close()
        browser.close()
    print(f"{SCREENS}: {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

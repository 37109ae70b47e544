"""A real server with a filled hub, and a real Chromium to look at it."""

import importlib.util
import os
import shutil
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import sync_playwright

from workingpapers.hub.app import create_app
from workingpapers.hub.settings import Settings

SAMPLE = Path(__file__).parents[1] / "hub" / "sample.py"
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """The folder of the hub that is served."""
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="session")
def outbox(home):
    """Where its letters lie."""
    return home / "outbox"


@pytest.fixture(scope="session")
def address(home):
    """Where the page is served for these tests."""
    spec = importlib.util.spec_from_file_location("sample_for_browser", SAMPLE)
    sample = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sample)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    settings = Settings(home, f"sqlite:///{home / 'hub.sqlite'}", base_url=base)
    app = create_app(settings, sample.sample_papers(home / "papers"))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive() and time.monotonic() < until, "the server did not start"
        time.sleep(0.05)
    yield base
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def chromium():
    """One browser for all tests."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, address):
    """Open a path in a fresh context; fails at the end if the console held an error."""
    contexts, complaints = [], []

    def visit(path="/", *, width=1440, height=900, theme="light", **options):
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=theme,
            base_url=address,
            **options,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda said: complaints.append(said.text) if said.type in ("error", "warning") else 0,
        )
        page.goto(path)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []

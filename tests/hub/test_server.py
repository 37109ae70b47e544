"""The server itself: clients that are too slow, and how it stops, with real sockets."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from sqlalchemy import create_engine, text

from workingpapers.hub import server
from workingpapers.hub.app import create_app
from workingpapers.hub.jobs.child import Child
from workingpapers.hub.settings import Settings


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def until(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


@contextmanager
def running(app):
    """The application on a port of its own."""
    port = free_port()
    config = uvicorn.Config(app, port=port, http=server.Connection, log_level="error")
    served = server.Server(config, app, None)
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    until(lambda: served.started)
    try:
        yield port
    finally:
        served.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    home = tmp_path_factory.mktemp("server")
    (home / "papers").mkdir()
    settings = Settings(home, f"sqlite:///{home / 'hub.sqlite'}", reads=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "HEAD_SECONDS", 0.5)
        patch.setattr(server, "STALL_SECONDS", 0.5)
        app = create_app(settings, home / "papers", fill=False)
        limited = next(item for item in app.user_middleware if item.cls.__name__ == "Limited")
        limited.kwargs["body_seconds"] = 0.5
        with running(app) as port:
            yield port


def connected(port):
    made = socket.create_connection(("127.0.0.1", port), 10)
    made.settimeout(10)
    return made


def rest(client):
    """What still comes, until the other side closes."""
    found = b""
    try:
        while part := client.recv(65536):
            found += part
    except ConnectionError:
        pass
    return found


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\r\n\r\n"])
def test_a_client_that_drips_its_head_is_cut_and_blocks_nobody(port, start):
    slow = [connected(port) for _ in range(30)]
    began = time.monotonic()
    for client in slow:
        client.sendall(start)
    answer = httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=5)
    assert answer.text == "ok\n"
    for number in range(20):  # a byte now and then does not buy more time
        try:
            slow[0].sendall(b"X-%d: y\r\n" % number)
        except ConnectionError:
            break
        time.sleep(0.05)
    assert {rest(client)[:12] for client in slow} <= {b"", b"HTTP/1.1 400"}
    assert time.monotonic() - began < 8
    for client in slow:
        client.close()


def test_a_second_request_has_as_little_time_as_the_first(port):
    client = connected(port)
    client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    until(lambda: b"ok\n" in client.recv(65536))
    client.sendall(b"GET /health")
    assert rest(client) == b""
    client.close()


def test_a_client_that_drips_its_body_is_told_and_cut(port):
    client = connected(port)
    client.sendall(
        b"POST /theme HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\ntheme="
    )
    answer = httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=5)
    assert answer.status_code == 200
    told = rest(client)
    assert told.startswith(b"HTTP/1.1 408") and b"too long to arrive" in told
    client.close()


def test_a_client_that_does_not_read_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "STALL_SECONDS", 0.3)
    sent = []

    class Large:
        state = type("State", (), {"stopping": threading.Event()})

        async def __call__(self, scope, receive, send):
            if scope["type"] == "lifespan":
                while (message := await receive())["type"] != "lifespan.shutdown":
                    await send({"type": f"{message['type']}.complete"})
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(1000):
                body = {"type": "http.response.body", "body": b"x" * 2**20, "more_body": True}
                await send(body)
                sent.append(1)

    with running(Large()) as port:
        client = connected(port)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(1.0)
        taken = len(rest(client))
        client.close()
    assert taken < 100 * 2**20


def test_a_head_that_is_too_large_is_refused(port):
    client = connected(port)
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n")
    assert rest(client)[:12] in (b"HTTP/1.1 400", b"")
    client.close()


# The child


def test_a_worker_that_dies_is_started_again_and_taken_along(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("workingpapers.hub.jobs.child.AGAIN", 0.05)
    note = tmp_path / "note"
    code = f"open({str(note)!r}, 'a').write('x'); import sys; sys.exit(3)"
    child = Child([sys.executable, "-c", code])
    child.start()
    until(lambda: note.exists() and len(note.read_text()) >= 2)
    child.stop(5)
    assert "status 3" in caplog.text
    count = len(note.read_text())
    time.sleep(0.3)
    assert len(note.read_text()) == count


def test_a_worker_that_will_not_end_is_ended(tmp_path):
    note = tmp_path / "note"
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"open({str(note)!r}, 'w').write('x'); time.sleep(600)"
    )
    child = Child([sys.executable, "-c", code])
    child.start()
    until(note.exists)
    began = time.monotonic()
    child.stop(0.3)
    assert time.monotonic() - began < 10 and child._process.returncode == -signal.SIGKILL


# The whole, as it is run


class Served:
    """`papers serve`, and what it said."""

    def __init__(self, home, *options):
        self.home, self.port = home, free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        environ = {**os.environ, "WORKINGPAPERS_HOME": str(home), "NO_COLOR": "1"}
        environ.pop("DATABASE_URL", None)
        start = [sys.executable, "-c", "from workingpapers.cli import main; main()"]
        self.log = (home / "log").open("w+")
        self.process = subprocess.Popen(
            [*start, "serve", "--port", str(self.port), *options],
            env=environ,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.http = httpx.Client(base_url=self.base, timeout=30)
        until(self._answers, 120)

    def _answers(self):
        assert self.process.poll() is None, (self.home / "log").read_text()
        try:
            return self.http.get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    def sign_in(self):
        """As the first administrator."""
        said = (self.home / "log").read_text()
        link = re.search(r"(/first\?key=\S+)", said)[1]
        key = link.partition("key=")[2]
        form = {"token": self.token(link), "key": key, "email": "chief@lab.example"}
        assert self.http.post("/first", data=form).status_code == 303

    def token(self, path):
        return re.search(r'name="token" value="([^"]+)"', self.http.get(path).text)[1]

    def children(self):
        listed = subprocess.run(
            ["ps", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
        )
        rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
        return [int(pid) for pid, parent, *_ in rows if int(parent) == self.process.pid]

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        status = self.process.wait(60)
        self.http.close()
        self.log.close()
        return status


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def served(tmp_path):
    made = []

    def start(*options):
        made.append(Served(tmp_path, *options))
        return made[0]

    yield start
    for item in made:
        if item.process.poll() is None:
            item.process.kill()
            item.process.wait()
        item.http.close()
        item.log.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_running_request_ends_live_pages_end_and_the_status_is_0(served, how):
    hub = served("--no-worker")
    hub.sign_in()
    form = {"token": hub.token("/admin/jobs"), "source": "1808.00758"}
    where = hub.http.post("/admin/jobs/import", data=form).headers["location"]
    events = []

    def watch():
        with hub.http.stream("GET", f"{where}/events") as stream:
            events.extend(stream.iter_lines())

    live = threading.Thread(target=watch)
    live.start()
    until(lambda: any(line.startswith("data:") for line in events))

    running = connected(hub.port)
    body = b"theme=dark&next=/evidence"
    running.sendall(
        b"POST /theme HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" % len(body)
    )
    running.sendall(body[:5])
    time.sleep(0.3)
    hub.process.send_signal(how)
    until(lambda: refused(hub.port))
    running.sendall(body[5:])
    answer = rest(running)
    running.close()
    assert answer.startswith(b"HTTP/1.1 303") and b"location: /evidence" in answer
    assert hub.process.wait(30) == 0
    live.join(10)
    assert not live.is_alive() and json.loads(
        events[-2][6:] if events[-1] == "" else events[-1][6:]
    )
    assert "Traceback" not in (hub.home / "log").read_text()


def refused(port):
    try:
        connected(port).close()
    except ConnectionError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_server_and_its_job_is_not_lost(served, how):
    hub = served()
    [worker] = until(hub.children)
    hub.sign_in()
    papers = [
        {"id": f"2403.{n:05}", "title": f"Paper {n}", "summary": f"Words on {n}. " * 40,
         "publishedAt": "2024-03-01T00:00:00Z"} for n in range(4000)
    ]  # fmt: skip
    sent = {"file": ("page.json", json.dumps([{"paper": paper} for paper in papers]))}
    form = {"token": hub.token("/admin/jobs")}
    answer = hub.http.post("/admin/jobs/import", data=form, files=sent)
    number = int(answer.headers["location"].rpartition("/")[2])
    engine = create_engine(f"sqlite:///{hub.home / 'hub.sqlite'}")

    def state():
        with engine.connect() as db:
            row = text("SELECT state, attempts, phase FROM jobs WHERE id = :n")
            return tuple(db.execute(row, {"n": number}).one())

    until(lambda: state()[2] == "indexing", 60)
    status = hub.end(how)
    assert status == (0 if how == signal.SIGTERM else -signal.SIGKILL)
    until(lambda: gone(worker))
    assert state()[:2] == ("queued", 0)
    engine.dispose()

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from workingpapers.hub.feeds import remote
from workingpapers.hub.feeds.addresses import address_of
from workingpapers.hub.feeds.network import is_public
from workingpapers.hub.feeds.remote import Later, Limiter, RemoteError, Web

PUBLIC = "93.184.216.34"


def resolve(host, port):
    return [PUBLIC]


def fetch(address, *, limiter=None, **carried):
    return Web(limiter, **carried).fetch(address)


def body(data, status=200, headers=None):
    """An answer that comes over the wire, as those of real servers do."""
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(data))


def answering(answer):
    """A transport that notes the requests it gets."""
    seen = []

    def handle(request):
        seen.append(request)
        return answer(request)

    return httpx.MockTransport(handle), seen


@pytest.mark.parametrize(
    ("reference", "address"),
    [
        ("1808.00758", "https://export.arxiv.org/api/query?id_list=1808.00758&max_results=1"),
        (
            "arxiv:hep-th/9901001v2, 1808.00758",
            "https://export.arxiv.org/api/query?id_list=hep-th/9901001v2,1808.00758&max_results=2",
        ),
        (
            "https://arxiv.org/pdf/1808.00758v2",
            "https://export.arxiv.org/api/query?id_list=1808.00758v2&max_results=1",
        ),
        ("https://huggingface.co/papers", "https://huggingface.co/api/daily_papers"),
        (
            "https://huggingface.co/papers/date/2025-12-31",
            "https://huggingface.co/api/daily_papers?date=2025-12-31",
        ),
        (
            "https://huggingface.co/papers/week/2025-W52",
            "https://huggingface.co/api/daily_papers?week=2025-W52",
        ),
        (
            "https://huggingface.co/papers/1808.00758",
            "https://huggingface.co/api/papers/1808.00758",
        ),
        ("https://example.org/feed.xml", "https://example.org/feed.xml"),
    ],
)
def test_knows_where_the_metadata_is(reference, address):
    assert address_of(reference) == address


def test_what_is_neither_id_nor_address_is_refused():
    with pytest.raises(ValueError, match="neither an arXiv id nor an address"):
        address_of("kettles 1808.00758")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("127.8.9.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),  # where clouds keep credentials
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_tells_public_addresses_from_all_others(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://example.org/", "only https"),
        ("ftp://example.org/", "only https"),
        ("file:///etc/passwd", "only https"),
        ("gopher://example.org/", "only https"),
        ("https:///nohost", "only https"),
        ("https://user:secret@example.org/", "user name"),
        ("https://example.org:8000/", "only ports 80 and 443"),
        ("https://example.org:22/", "only ports 80 and 443"),
    ],
)
def test_refuses_before_asking_anybody(address, reason):
    transport, seen = answering(lambda request: httpx.Response(200))
    with pytest.raises(RemoteError, match=reason):
        fetch(address, resolve=resolve, transport=transport)
    assert seen == []


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["169.254.169.254"], ["::1"], [PUBLIC, "10.0.0.1"], ["::ffff:192.168.0.1"]],
)
def test_a_name_that_leads_into_a_private_network_is_refused(addresses):
    transport, seen = answering(lambda request: httpx.Response(200))
    with pytest.raises(RemoteError, match="private network"):
        fetch("https://example.org/", resolve=lambda *_: addresses, transport=transport)
    assert seen == []


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "2130706433", "0x7f.1", "localhost"])
def test_numbers_in_disguise_are_looked_up_like_names(host):
    transport, seen = answering(lambda request: httpx.Response(200))
    with pytest.raises(RemoteError):
        fetch(f"https://{host}/", transport=transport)
    assert seen == []


def test_looks_up_once_and_connects_to_the_address_that_was_checked():
    asked = []

    def rebinding(host, port):
        asked.append((host, port))
        return [PUBLIC] if len(asked) == 1 else ["127.0.0.1"]

    transport, seen = answering(lambda request: body(b"papers"))
    assert fetch("https://example.org/a?b=c", resolve=rebinding, transport=transport) == b"papers"
    assert asked == [("example.org", 443)]
    (request,) = seen
    assert request.url == f"https://{PUBLIC}/a?b=c"
    assert request.headers["host"] == "example.org"
    assert request.extensions["sni_hostname"] == "example.org"


def test_an_ipv6_address_is_asked_where_there_is_no_other():
    transport, seen = answering(lambda request: body(b"x"))
    six = "2606:2800:220:1:248:1893:25c8:1946"
    fetch("https://example.org/", resolve=lambda *_: [six], transport=transport)
    fetch("https://example.org/", resolve=lambda *_: [six, PUBLIC], transport=transport)
    assert [request.url.host for request in seen] == [six, PUBLIC]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://example.org/", "only https"),
        ("https://inside.example/", "private network"),
        ("https://example.org:8080/", "only ports"),
        ("//inside.example/x", "private network"),
    ],
)
def test_each_redirect_is_checked_again(target, reason):
    def names(host, port):
        return ["10.0.0.1"] if host == "inside.example" else [PUBLIC]

    transport, seen = answering(lambda r: httpx.Response(302, headers={"location": target}))
    with pytest.raises(RemoteError, match=reason):
        fetch("https://example.org/", resolve=names, transport=transport)
    assert len(seen) == 1


def test_follows_three_redirects_and_no_fourth():
    def answer(request):
        step = int(request.url.path.strip("/") or 0)
        if step == 3:
            return body(b"there")
        return httpx.Response(301, headers={"location": f"/{step + 1}"})

    transport, _ = answering(answer)
    assert fetch("https://example.org/0", resolve=resolve, transport=transport) == b"there"
    transport, seen = answering(lambda r: httpx.Response(301, headers={"location": "/again"}))
    with pytest.raises(RemoteError, match="more than 3 redirects"):
        fetch("https://example.org/0", resolve=resolve, transport=transport)
    assert len(seen) == 4


def test_ends_a_body_that_is_too_large():
    def flood() -> Iterator[bytes]:
        while True:
            yield b"x" * 100_000

    transport, _ = answering(lambda r: httpx.Response(200, content=flood()))
    with pytest.raises(RemoteError, match="more than 5 MB"):
        fetch("https://example.org/", resolve=resolve, transport=transport)


def test_packed_answers_are_refused():
    def answer(request):
        assert request.headers["accept-encoding"] == "identity"
        return body(b"", headers={"content-encoding": "gzip"})

    transport, _ = answering(answer)
    with pytest.raises(RemoteError, match="packed"):
        fetch("https://example.org/", resolve=resolve, transport=transport)


def test_ends_an_answer_that_drips():
    now = [0.0]

    def drip() -> Iterator[bytes]:
        while True:
            now[0] += 1
            yield b"x"

    transport, _ = answering(lambda r: httpx.Response(200, content=drip()))
    with pytest.raises(RemoteError, match="longer than 10 seconds"):
        fetch("https://example.org/", resolve=resolve, transport=transport, clock=lambda: now[0])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (httpx.Response(404), "answered 404 Not Found"),
        (httpx.Response(429), "answered 429"),
        (httpx.Response(400, json={"error": "no"}), "answered 400"),
        (httpx.ConnectError("refused"), "cannot be reached: refused"),
        (httpx.ReadTimeout("slow"), "did not answer in 10 seconds"),
    ],
)
def test_says_what_went_wrong(answer, reason):
    def handle(request):
        if isinstance(answer, Exception):
            raise answer
        return answer

    transport, _ = answering(handle)
    with pytest.raises(RemoteError, match=reason):
        fetch("https://example.org/", resolve=resolve, transport=transport)


def test_an_unknown_host_is_named():
    with pytest.raises(RemoteError, match=r"nowhere\.invalid is not known"):
        fetch("https://nowhere.invalid/")


def test_arxivs_feed_of_an_error_is_read():
    kind = {"content-type": "application/atom+xml"}
    transport, _ = answering(lambda request: body(b"<feed/>", 400, kind))
    limiter = Limiter(0)
    address = "https://export.arxiv.org/api/query?id_list=1"
    assert fetch(address, resolve=resolve, transport=transport, limiter=limiter) == b"<feed/>"


def test_arxiv_is_asked_once_in_three_seconds():
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    limiter = Limiter(3.0, clock=lambda: now[0], sleep=sleep)
    transport, _ = answering(lambda r: body(b"x"))
    for address in ("https://export.arxiv.org/a", "https://example.org/", "https://arxiv.org/b"):
        fetch(address, resolve=resolve, transport=transport, limiter=limiter, clock=lambda: now[0])
    assert slept == [3.0]
    now[0] += 10
    with limiter.turn():
        pass
    assert slept == [3.0]


class Local(httpx.BaseTransport):
    """Carries what is meant for a public address to a server on this machine."""

    def __init__(self, port):
        self.port, self.inner = port, httpx.HTTPTransport()

    def handle_request(self, request):
        assert request.url.host == PUBLIC
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self.port)
        return self.inner.handle_request(request)

    def close(self):
        self.inner.close()


@contextlib.contextmanager
def server(page):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/page" else 302)
            self.send_header("Location", "/page")
            self.send_header("Content-Length", str(len(page) if self.path == "/page" else 0))
            self.end_headers()
            if self.path == "/page":
                self.wfile.write(page)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield listening.server_address[1]
        finally:
            listening.shutdown()
            thread.join()


def test_fetches_from_a_real_server(page):
    with server(page().encode()) as port:
        data = fetch("https://example.org/", resolve=resolve, transport=Local(port))
    assert data == page().encode()
    assert remote.LARGEST == 5 * 2**20


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize(
    ("told", "least", "most"),
    [
        ("120", 120, 120),
        ("", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("9" * 50, 10**6, 10**6),
        ("Fri, 31 Dec 2099 23:59:59 GMT", 10**9, 10**10),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0),
    ],
)
def test_a_server_that_is_busy_says_for_how_long(status, told, least, most):
    transport, _ = answering(lambda r: httpx.Response(status, headers={"retry-after": told}))
    with pytest.raises(Later, match=f"answered {status}") as caught:
        fetch("https://example.org/", resolve=resolve, transport=transport)
    assert least <= caught.value.seconds <= most


def test_a_wrong_address_is_not_to_be_tried_again():
    transport, _ = answering(lambda r: httpx.Response(404))
    with pytest.raises(RemoteError) as caught:
        fetch("https://example.org/", resolve=resolve, transport=transport)
    assert not isinstance(caught.value, Later)


def test_an_answer_that_one_has_is_not_sent_again():
    def answer(request):
        if request.headers.get("if-none-match") == '"tea"':
            assert request.headers["if-modified-since"] == "yesterday"
            return httpx.Response(304, headers={"etag": '"tea"'})
        assert "if-none-match" not in request.headers
        return body(b"papers", headers={"etag": '"tea"', "last-modified": "yesterday"})

    transport, _ = answering(answer)
    web = Web(resolve=resolve, transport=transport)
    first = web.ask("https://example.org/")
    assert (first.body, first.etag, first.modified) == (b"papers", '"tea"', "yesterday")
    again = web.ask("https://example.org/", etag=first.etag, modified=first.modified)
    assert (again.unchanged, again.body) == (True, b"")


def test_a_known_server_may_send_more():
    transport, _ = answering(lambda r: body(b"x" * (remote.LARGEST + 1)))
    web = Web(resolve=resolve, transport=transport)
    with pytest.raises(RemoteError, match="more than 5 MB"):
        web.ask("https://example.org/")
    assert len(web.ask("https://example.org/", largest=2**24).body) == remote.LARGEST + 1


@pytest.mark.parametrize(
    ("host", "turns"),
    [("oaipmh.arxiv.org", 1), ("arxiv.org", 1), ("notarxiv.org", 0), ("arxiv.org.example", 0)],
)
def test_turns_are_for_arxiv(host, turns):
    taken = []

    class Counting:
        @contextlib.contextmanager
        def turn(self):
            taken.append(host)
            yield

    transport, _ = answering(lambda r: body(b"x"))
    fetch(f"https://{host}/", limiter=Counting(), resolve=resolve, transport=transport)
    assert len(taken) == turns


def test_a_redirect_to_arxiv_takes_a_turn_as_well():
    def answer(request):
        there = {"location": "https://arxiv.org/b"}
        return body(b"x") if request.url.path == "/b" else httpx.Response(302, headers=there)

    slept = []
    limiter = Limiter(3.0, clock=lambda: 0.0, sleep=slept.append)
    transport, _ = answering(answer)
    fetch("https://arxiv.org/a", resolve=resolve, transport=transport, limiter=limiter)
    assert slept == [3.0]

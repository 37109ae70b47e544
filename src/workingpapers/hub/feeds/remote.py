"""Fetches feeds from the network, and cannot be talked into fetching from one's own.

An address may come from anyone, so it is looked up once, checked, and the connection goes to the
very address that was checked; each redirect is checked again.
"""

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Iterable
from threading import Lock
from urllib.parse import quote, urlencode

import httpx

from workingpapers import __version__
from workingpapers.hub.feeds.identifiers import parse

PORTS = (80, 443)
REDIRECTS = 3
SECONDS = 10.0  # for everything, redirects included
LARGEST = 5 * 1024 * 1024  # bytes
ARXIV_PAUSE = 3.0  # seconds between two requests, as arXiv asks of all its users

Resolve = Callable[[str, int], Iterable[str]]  # host, port -> addresses


class RemoteError(RuntimeError):
    """Nothing could be fetched; the message says why."""


def address_of(reference: str) -> str:
    """Where the metadata is that `reference` asks for.

    arXiv ids and arXiv's pages go to its query interface, Hugging Face's paper pages to its API;
    several ids may stand in one reference, with commas or spaces between. Any other address is
    taken as it is.

    >>> address_of("arxiv:1808.00758")
    'https://export.arxiv.org/api/query?id_list=1808.00758&max_results=1'
    >>> address_of("https://huggingface.co/papers?date=2025-12-31")
    'https://huggingface.co/api/daily_papers?date=2025-12-31'
    """
    reference = reference.strip()
    own = re.fullmatch(
        r"https://(?:huggingface\.co|hf\.co)/papers(?:/([^?#]+))?/?(\?.*)?", reference
    )
    if own:
        return _hugging_face(own[1] or "", own[2] or "")
    ids = [parse(word) for word in re.split(r"[\s,]+", reference) if word]
    known = [item for item in ids if item]
    if known and len(known) == len(ids):
        query = {"id_list": ",".join(map(str, known)), "max_results": len(known)}
        return f"https://export.arxiv.org/api/query?{urlencode(query, safe=',/')}"
    if "://" in reference:
        return reference
    raise RemoteError(f"{reference[:80]!r} is neither an arXiv id nor an address")


def _hugging_face(path: str, query: str) -> str:
    period = re.fullmatch(r"(date|week|month)/([\w-]+)", path)
    if period:
        return f"https://huggingface.co/api/daily_papers?{period[1]}={period[2]}"
    paper = parse(path)
    if paper:
        return f"https://huggingface.co/api/papers/{quote(paper.number)}"
    return f"https://huggingface.co/api/daily_papers{query}"


class Limiter:
    """Keeps requests to one host apart, over all threads of this process."""

    def __init__(
        self,
        pause: float = ARXIV_PAUSE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pause, self._clock, self._sleep = pause, clock, sleep
        self._lock = Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Come back when it is this caller's turn."""
        with self._lock:
            delay = self._next - self._clock()
            if delay > 0:
                self._sleep(delay)
            self._next = self._clock() + self._pause


ARXIV = Limiter()


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system knows them."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RemoteError(f"{host} is not known: {error}") from None
    return [str(item[4][0]) for item in found]


def is_public(address: str) -> bool:
    """Whether an address lies outside every private, local or reserved network.

    >>> is_public("93.184.216.34"), is_public("127.0.0.1"), is_public("::ffff:10.0.0.1")
    (True, False, False)
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        # IPv4 dressed up: mapped, translated (64:ff9b::/96) and tunnelled (2002::/16, 2001::/32).
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if found in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not (
        found.is_multicast or found.is_reserved or found.is_unspecified or found.is_loopback
    )


def fetch(
    address: str,
    *,
    resolve: Resolve = resolve,
    transport: httpx.BaseTransport | None = None,
    limiter: Limiter = ARXIV,
    clock: Callable[[], float] = time.monotonic,
) -> bytes:
    """Fetch an https address, at most 5 MB in 10 seconds over 3 redirects.

    Args:
        address: where.
        resolve: looks hosts up.
        transport: carries the requests; tests bring their own.
        limiter: paces requests to arXiv.
        clock: measures the seconds.

    Raises:
        RemoteError: it may not be fetched, or could not be.
    """
    until = clock() + SECONDS
    # Settings of the environment are left out: a proxy would look the host up once more.
    with httpx.Client(transport=transport, trust_env=False, timeout=SECONDS) as client:
        for _ in range(REDIRECTS + 1):
            url = _checked(address)
            if url.host.endswith("arxiv.org"):
                before = clock()
                limiter.wait()
                until += clock() - before  # waiting one's turn is no delay of the other side's
            answer = _once(client, url, resolve, until, clock)
            if isinstance(answer, bytes):
                return answer
            address = str(url.join(answer))
    raise RemoteError(f"{address}: more than {REDIRECTS} redirects")


def _checked(address: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise RemoteError(f"{address[:80]!r} is no address: {error}") from None
    if url.scheme != "https" or not url.host:
        raise RemoteError(f"{address[:80]}: only https addresses are fetched")
    if url.userinfo:
        raise RemoteError(f"{url.host}: addresses with a user name are not fetched")
    if (url.port or 443) not in PORTS:
        raise RemoteError(f"{url.host}: only ports 80 and 443 are asked, not {url.port}")
    return url


def _once(
    client: httpx.Client,
    url: httpx.URL,
    resolve: Resolve,
    until: float,
    clock: Callable[[], float],
) -> bytes | str:
    """The body, or where the answer sends us."""
    port = url.port or 443
    addresses = list(resolve(url.host, port))
    if not addresses:
        raise RemoteError(f"{url.host} is not known")
    for found in addresses:
        if not is_public(found):
            raise RemoteError(f"{url.host} lies in a private network and is not asked")
    headers = {
        "Host": url.netloc.decode("ascii"),
        "User-Agent": f"workingpapers/{__version__}",
        "Accept": "application/atom+xml, application/json, text/html;q=0.8, */*;q=0.5",
        "Accept-Encoding": "identity",  # nothing that could grow once it is here
    }
    # IPv4 first: many a machine has an IPv6 address and no way out.
    target = url.copy_with(host=min(addresses, key=lambda found: ":" in found))
    extensions = {"sni_hostname": url.host}  # the certificate must be the name's
    request = client.build_request("GET", target, headers=headers, extensions=extensions)
    try:
        response = client.send(request, stream=True)
        try:
            return _body(response, url, until, clock)
        finally:
            response.close()
    except httpx.TimeoutException:
        raise RemoteError(f"{url.host} did not answer in {SECONDS:.0f} seconds") from None
    except httpx.HTTPError as error:
        raise RemoteError(f"{url.host} cannot be reached: {error}") from None


def _body(
    response: httpx.Response, url: httpx.URL, until: float, clock: Callable[[], float]
) -> bytes | str:
    if response.is_redirect:
        return response.headers["location"]
    # arXiv reports a wrong question as 400 with a feed that says what is wrong with it.
    feed = "xml" in response.headers.get("content-type", "")
    if response.status_code != 200 and not (response.status_code == 400 and feed):
        reason = f"{response.status_code} {response.reason_phrase}".strip()
        raise RemoteError(f"{url.host} answered {reason}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise RemoteError(f"{url.host} sent packed data, which was not asked for")
    body = bytearray()
    for part in response.iter_raw():
        body += part
        if len(body) > LARGEST:
            raise RemoteError(f"{url.host} sent more than {LARGEST // 2**20} MB")
        if clock() > until:
            raise RemoteError(f"{url.host} took longer than {SECONDS:.0f} seconds")
    return bytes(body)

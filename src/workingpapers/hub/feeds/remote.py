"""Fetches feeds from the network, and cannot be talked into fetching from one's own.

An address may come from anyone, so it is looked up once, checked, and the connection goes to the
very address that was checked; each redirect is checked again.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Protocol

import httpx

from workingpapers import __version__
from workingpapers.hub.feeds import network
from workingpapers.hub.feeds.network import RemoteError, is_arxiv, is_public

__all__ = ["Answer", "Later", "Limiter", "RemoteError", "Turns", "Web"]

REDIRECTS = 3
SECONDS = 10.0  # for everything, redirects included
LARGEST = 5 * 1024 * 1024  # bytes
ARXIV_PAUSE = 3.0  # seconds between two requests, as arXiv asks of all its users
BUSY = frozenset({429, 500, 502, 503, 504})  # statuses that another time may not have

Resolve = Callable[[str, int], Iterable[str]]  # host, port -> addresses


class Later(RemoteError):
    """Nothing could be fetched now; trying again may help."""

    def __init__(self, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds  # that the other side asks to wait


class Turns(Protocol):
    """Lets one request to arXiv happen at a time, and not too soon after the last."""

    def turn(self) -> AbstractContextManager[None]:
        """Wait for one's turn, and have it for the length of the block."""
        ...


class Limiter:
    """Turns of the threads of one process."""

    def __init__(
        self,
        pause: float = ARXIV_PAUSE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pause, self._clock, self._sleep = pause, clock, sleep
        self._lock = Lock()
        self._next = 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn, and have it for the length of the block."""
        with self._lock:
            delay = self._next - self._clock()
            if delay > 0:
                self._sleep(delay)
            self._next = self._clock() + self._pause
            yield


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    body: bytes
    etag: str = ""
    modified: str = ""  # as the server writes it
    unchanged: bool = False  # the server says that we have it already; there is no body


class Web:
    """Other people's servers. Threads may share it.

    Args:
        turns: paces requests to arXiv.
        resolve: looks hosts up.
        transport: carries the requests; tests bring their own.
        clock: measures the seconds.
    """

    def __init__(
        self,
        turns: Turns | None = None,
        *,
        resolve: Resolve = network.resolve,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._turns = turns or Limiter()
        self._resolve, self._transport, self._clock = resolve, transport, clock

    def fetch(self, address: str) -> bytes:
        """What is at an https address; see `ask`."""
        return self.ask(address).body

    def ask(
        self,
        address: str,
        *,
        etag: str = "",
        modified: str = "",
        seconds: float = SECONDS,
        largest: int = LARGEST,
    ) -> Answer:
        """Ask an https address, over 3 redirects at most.

        Args:
            address: where.
            etag: of the answer that one has already.
            modified: when that one was changed, as the server wrote it.
            seconds: for all of it.
            largest: bytes of the answer.

        Raises:
            Later: it could not be fetched now.
            RemoteError: it may not be fetched, or could not be.
        """
        conditions = {"If-None-Match": etag, "If-Modified-Since": modified}
        limits = _Limits(self._clock() + seconds, seconds, largest, self._clock)
        # Settings of the environment are left out: a proxy would look the host up once more.
        transport = self._transport
        with httpx.Client(transport=transport, trust_env=False, timeout=seconds) as client:
            for _ in range(REDIRECTS + 1):
                url = network.checked(address)
                before = self._clock()
                with self._turns.turn() if is_arxiv(url.host) else nullcontext():
                    limits.until += self._clock() - before  # waiting is not the other's delay
                    request = self._request(client, url, conditions)
                    answer = _sent(client, request, url, limits)
                if isinstance(answer, Answer):
                    return answer
                address = str(url.join(answer))
        raise RemoteError(f"{address}: more than {REDIRECTS} redirects")

    def _request(
        self, client: httpx.Client, url: httpx.URL, conditions: dict[str, str]
    ) -> httpx.Request:
        addresses = list(self._resolve(url.host, url.port or 443))
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
            **{name: value for name, value in conditions.items() if value},
        }
        # IPv4 first: many a machine has an IPv6 address and no way out.
        target = url.copy_with(host=min(addresses, key=lambda found: ":" in found))
        extensions = {"sni_hostname": url.host}  # the certificate must be the name's
        return client.build_request("GET", target, headers=headers, extensions=extensions)


@dataclass(slots=True)
class _Limits:
    until: float
    seconds: float
    largest: int
    clock: Callable[[], float]


def _sent(
    client: httpx.Client, request: httpx.Request, url: httpx.URL, limits: _Limits
) -> Answer | str:
    """The answer, or where it sends us."""
    try:
        response = client.send(request, stream=True)
        try:
            return _answer(response, url, limits)
        finally:
            response.close()
    except httpx.TimeoutException:
        raise Later(f"{url.host} did not answer in {limits.seconds:.0f} seconds") from None
    except httpx.HTTPError as error:
        raise Later(f"{url.host} cannot be reached: {error}") from None


def _answer(response: httpx.Response, url: httpx.URL, limits: _Limits) -> Answer | str:
    if response.has_redirect_location:
        return response.headers["location"]
    headers = response.headers
    known = (headers.get("etag", ""), headers.get("last-modified", ""))
    if response.status_code == 304:
        return Answer(b"", *known, unchanged=True)
    # arXiv reports a wrong question as 400 with a feed that says what is wrong with it.
    feed = "xml" in headers.get("content-type", "")
    if response.status_code != 200 and not (response.status_code == 400 and feed):
        reason = f"{url.host} answered {response.status_code} {response.reason_phrase}".strip()
        if response.status_code in BUSY:
            raise Later(reason, _seconds(headers.get("retry-after", "")))
        raise RemoteError(reason)
    if headers.get("content-encoding", "identity") != "identity":
        raise RemoteError(f"{url.host} sent packed data, which was not asked for")
    body = bytearray()
    for part in response.iter_raw():
        body += part
        if len(body) > limits.largest:
            raise RemoteError(f"{url.host} sent more than {limits.largest // 2**20} MB")
        if limits.clock() > limits.until:
            raise Later(f"{url.host} took longer than {limits.seconds:.0f} seconds")
    return Answer(bytes(body), *known)


def _seconds(told: str) -> float:
    """The seconds that a header asks to wait, which it may tell as a moment; 0 for nonsense."""
    if told.strip().isdecimal():
        return float(min(int(told[:9]), 10**6))
    try:
        moment = parsedate_to_datetime(told)
    except (ValueError, TypeError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())

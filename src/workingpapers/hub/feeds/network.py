"""Which addresses may be asked: https, the usual ports, and no network of one's own."""

import ipaddress
import socket

import httpx

PORTS = (80, 443)


class RemoteError(RuntimeError):
    """Nothing could be fetched; the message says why."""


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system knows them."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
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


def checked(address: str) -> httpx.URL:
    """The address, if its form allows to ask it.

    Raises:
        RemoteError: it is not https, names a user, or another port.
    """
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


def is_arxiv(host: str) -> bool:
    """Whether arXiv's limits hold for this host: they are one for all of its interfaces.

    >>> is_arxiv("oaipmh.arxiv.org"), is_arxiv("notarxiv.org")
    (True, False)
    """
    return host == "arxiv.org" or host.endswith(".arxiv.org")

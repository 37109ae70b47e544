"""Links, codes and cookies: made here, shown once, kept as hashes."""

import hashlib
import hmac
import secrets

BYTES = 20  # 160 bits in a link, a cookie or a token
DIGITS = 6


def token() -> str:
    """A new secret for a link, a cookie or a program."""
    return secrets.token_urlsafe(BYTES)


def hashed(secret: str) -> str:
    """What is kept of a secret. No salt: nobody guesses 160 bits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def code() -> str:
    """Six digits to type in."""
    return f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"


def keyed(code: str, cookie: str) -> str:
    """What is kept of a code: a million guesses would find it, were the cookie not its key."""
    return hmac.new(
        cookie.encode(), code.encode("utf-8", "surrogatepass"), hashlib.sha256
    ).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare without telling by the time it takes."""
    return hmac.compare_digest(one.encode(), other.encode())

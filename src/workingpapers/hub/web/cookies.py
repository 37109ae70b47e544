"""Cookies that only this host can set and no script can read."""

from fastapi import Request
from fastapi.responses import Response

from workingpapers.hub.web.site import site_of

SESSION, VISIT, SIGNING = "session", "visit", "signing"


def is_secure(request: Request) -> bool:
    """Whether readers reach this hub over https."""
    return site_of(request).settings.base_url.startswith("https:")


def called(request: Request, name: str) -> str:
    """A cookie's full name; browsers accept `__Host-` from the host itself and over https alone."""
    return f"__Host-{name}" if is_secure(request) else name


def read(request: Request, name: str) -> str:
    """What a cookie holds; empty where there is none."""
    value = request.cookies.get(called(request, name), "")
    return value if len(value) <= 100 and value.isascii() else ""


def keep(response: Response, request: Request, name: str, value: str, seconds: int) -> None:
    """Set a cookie."""
    response.set_cookie(
        called(request, name),
        value,
        max_age=seconds,
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="lax",
    )


def drop(response: Response, request: Request, name: str) -> None:
    """Take a cookie away."""
    response.delete_cookie(
        called(request, name),
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="lax",
    )

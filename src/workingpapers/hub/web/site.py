"""Templates and static files: how a page is made from a name and what it shows."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from workingpapers.core.figure import amount, seeds_svg
from workingpapers.core.types import Claim, Evidence
from workingpapers.hub.hub import Hub
from workingpapers.hub.people.markdown import rendered
from workingpapers.hub.settings import Settings
from workingpapers.hub.web import board, figures, why
from workingpapers.hub.web.assets import Assets
from workingpapers.hub.web.mathml import maths, noted, shown

THEMES = ("light", "dark")


def picture(claim: Claim, evidence: Evidence) -> Markup:
    """The seeds as SVG; everything in it is escaped where it is drawn."""
    return Markup(seeds_svg(claim, evidence))


class Remembered(Protocol):
    """The reader of one page, as templates know them."""

    def remember(self, response: Response) -> None:
        """Set the cookies that the page needs."""
        ...


class Site:
    """What every page needs: settings, templates, addresses of static files."""

    def __init__(self, settings: Settings, visitor: Callable[[Request], Remembered]) -> None:
        self.settings = settings
        self.started = datetime.now(UTC)
        self._visitor = visitor
        self.assets = Assets()
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
            finalize=lambda value: shown(value) if type(value) is str else value,
        )
        self._templates.filters |= {
            "maths": maths,
            "noted": noted,
            "day": figures.day,
            "markdown": lambda text: Markup(rendered(text)),
        }
        self._templates.globals |= {
            "asset": self.assets.url,
            "base_url": settings.base_url,
            "f": figures,
            "fields": board.fields,
            "picture": picture,
            "why": why,
            "amount": amount,
        }

    def page(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **shown: Any,
    ) -> HTMLResponse:
        """Render a template for this reader."""
        theme = request.cookies.get("theme", "")
        query = f"?{request.url.query}" if request.url.query else ""
        visitor = self._visitor(request)
        body = self._templates.get_template(template).render(
            theme=theme if theme in THEMES else "",
            visitor=visitor,
            path=request.url.path,
            here=request.url.path + query,
            **{"query": "", **shown},
        )
        vary = {"Vary": "Cookie", "Cache-Control": "private, no-cache"}
        answer = HTMLResponse(body, status, {**vary, **(headers or {})})
        visitor.remember(answer)
        return answer


def site_of(request: Request) -> Site:
    """The site this request came to."""
    return cast(Site, request.app.state.site)


def hub_of(request: Request) -> Hub:
    """The hub behind it."""
    return cast(Hub, request.app.state.hub)

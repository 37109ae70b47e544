"""Commands on people: who looks after the hub."""

from typing import TYPE_CHECKING

from workingpapers.cli.console import out

if TYPE_CHECKING:
    from workingpapers.hub.hub import Hub


def first_link(hub: "Hub", base_url: str, *, again: bool = False) -> str | None:
    """The address that makes an administrator; None where there is one and `again` is not set."""
    secret = hub.people.signing.first_link(again=again)
    return f"{base_url}/first?key={secret}" if secret else None


def admin() -> None:
    """Print a link that makes whoever opens it an administrator: once, within ten minutes."""
    from workingpapers.hub.hub import Hub
    from workingpapers.hub.settings import Settings

    settings = Settings.from_environment()
    with Hub.open(settings) as hub:
        out.print(first_link(hub, settings.base_url, again=True), soft_wrap=True)

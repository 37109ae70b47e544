"""All that has to do with people, in one place for the hub."""

from collections.abc import Callable
from datetime import UTC, datetime

from workingpapers.hub.people.community import Community
from workingpapers.hub.people.leaving import Leaving
from workingpapers.hub.people.limits import Limits
from workingpapers.hub.people.moderation import Moderation
from workingpapers.hub.people.moving import Moving
from workingpapers.hub.people.post import Folder, Outbox, Post
from workingpapers.hub.people.signing import Signing
from workingpapers.hub.settings import Settings
from workingpapers.hub.store.database import Store


def _now() -> datetime:
    return datetime.now(UTC)


class People:
    """Sign-in, community, moderation and limits of one hub."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        post: Post | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self.post = post or _post(store, settings, clock)
        self.signing = Signing(store, clock, settings.sign_up)
        self.community = Community(store, clock)
        self.moderation = Moderation(store, clock)
        self.leaving = Leaving(store, clock)
        self.moving = Moving(store, clock)
        self.limits = Limits(store, clock)


def _post(store: Store, settings: Settings, clock: Callable[[], datetime]) -> Post:
    if settings.smtp:
        return Outbox(store, clock)
    return Folder(settings.home / "outbox", settings.base_url)

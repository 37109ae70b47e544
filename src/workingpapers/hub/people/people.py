"""All that has to do with people, in one place for the hub."""

from collections.abc import Callable
from datetime import UTC, datetime

from workingpapers.hub.people.community import Community
from workingpapers.hub.people.leaving import Leaving
from workingpapers.hub.people.limits import Limits
from workingpapers.hub.people.moderation import Moderation
from workingpapers.hub.people.post import Folder, Post
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
        self.post = post or Folder(settings.home / "outbox", settings.base_url)
        self.signing = Signing(store, clock, settings.sign_up)
        self.community = Community(store, clock)
        self.moderation = Moderation(store, clock)
        self.leaving = Leaving(store, clock)
        self.limits = Limits(store, clock)

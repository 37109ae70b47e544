"""What the readers of `load.py` ask for; locust runs it."""

import json
import os
import random
import time
from urllib.request import urlopen

from locust import FastHttpUser, constant_throughput, events, task

KINDS = os.environ.get("LOAD_KINDS", "edition,search,api-search,api-paper").split(",")
PAPERS: list[dict[str, str]] = []


@events.test_start.add_listener
def look_around(environment, **_):
    """Learn some papers of the hub, so that readers ask for what is there."""
    with urlopen(f"{environment.host}/api/papers?limit=100") as answer:
        PAPERS.extend(json.load(answer))


class Reader(FastHttpUser):
    """Asks once a second, whatever the last answer took."""

    wait_time = constant_throughput(1)

    def on_start(self):
        """Begin at any moment of a second: readers do not come all at once."""
        time.sleep(random.random())

    @task
    def read(self):
        paper = random.choice(PAPERS)
        words = [word for word in paper["title"].split() if word.isalpha()] or ["sets"]
        query = " ".join(random.sample(words, min(3, len(words))))
        path = {
            "edition": "/",
            "search": f"/search?q={query}",
            "api-search": f"/api/v1/search?q={query}",
            "api-paper": f"/api/v1/papers/{paper['id']}",
        }
        kind = random.choice(KINDS)
        self.client.get(path[kind], name=kind)

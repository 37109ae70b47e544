"""Each kind of source, on recorded answers: what it asks for, where it goes on, what it gives."""

import json
from datetime import date, timedelta
from urllib.parse import parse_qs

import httpx
import pytest

from workingpapers.hub.sources import kinds
from workingpapers.hub.sources.kinds import arxiv


@pytest.fixture(scope="module")
def database():
    return "sqlite"  # nothing here depends on it; test_sources.py runs on both


ENTRY = """<entry><id>http://arxiv.org/abs/{number}v1</id><title>Paper {number}</title>
<published>{day}T00:00:00Z</published><summary>Tea.</summary></entry>"""
FEED = """<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom">
<o:totalResults xmlns:o="http://a9.com/-/spec/opensearch/1.1/">{total}</o:totalResults>{body}</feed>
"""
RECORD = """<record><header><identifier>oai:arXiv.org:{0}</identifier></header><metadata>
<arXiv xmlns="http://arxiv.org/OAI/arXiv/"><id>{0}</id><created>2026-02-20</created>
<title>Paper {0}</title><categories>cs.LG</categories><abstract>Tea.</abstract>
</arXiv></metadata></record>"""
GONE = """<record><header status="deleted"><identifier>oai:arXiv.org:{0}</identifier></header>
</record>"""


def oai(*numbers, token="", gone=()):
    body = "".join(map(RECORD.format, numbers)) + "".join(map(GONE.format, gone))
    body += f"<resumptionToken>{token}</resumptionToken>"
    return (
        '<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/">'
        f"<ListRecords>{body}</ListRecords></OAI-PMH>"
    )


def oai_error(code):
    return (
        '<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/">'
        f'<error code="{code}">said</error></OAI-PMH>'
    )


def read(sources, kind, what, **options):
    source = sources.add(kind, what, options=options)
    return sources.sync(source.id)


def counts(source):
    return (source.counts.new, source.counts.changed, source.counts.same)


def ids(hub):
    return {entry.paper.id for entry in hub.papers(limit=1000).entries}


# OAI-PMH


def test_oai_follows_tokens_and_goes_on_from_the_last_day(hub, sources, recorded, clock):
    pages = [oai("2602.00001", "hep-th/9901001", token="1|2"), oai("2602.00002")]
    recorded.answer = lambda url, headers: pages[len(recorded.asked) - 1]
    done = read(sources, "oai", "cs:cs:LG", since="2026-02-20")
    assert (counts(done), done.error) == ((3, 0, 0), "")
    assert ids(hub) == {"arxiv:2602.00001", "arxiv:hep-th/9901001", "arxiv:2602.00002"}
    assert [dict(url.params) for url in recorded.asked] == [
        {
            "verb": "ListRecords",
            "metadataPrefix": "arXiv",
            "from": "2026-02-20",
            "until": "2026-03-01",
            "set": "cs:cs:LG",
        },
        {"verb": "ListRecords", "resumptionToken": "1|2"},
    ]
    assert str(recorded.asked[0]).startswith("https://oaipmh.arxiv.org/oai?")
    clock.pass_(days=1)
    recorded.answer = lambda url, headers: oai_error("noRecordsMatch")
    done = sources.sync(done.id)
    assert (counts(done), done.error) == ((0, 0, 0), "")
    # The day of the last run was not over then.
    assert recorded.asked[-1].params["from"] == "2026-03-01"
    assert recorded.asked[-1].params["until"] == "2026-03-02"


def test_oai_goes_through_the_past_in_windows(sources, recorded):
    recorded.answer = lambda url, headers: oai_error("noRecordsMatch")
    done = read(sources, "oai", "all", since="2025-12-15", format="arXivRaw")
    windows = [(url.params["from"], url.params["until"]) for url in recorded.asked]
    assert windows == [
        ("2025-12-15", "2026-01-13"),
        ("2026-01-14", "2026-02-12"),
        ("2026-02-13", "2026-03-01"),
    ]
    assert all("set" not in url.params for url in recorded.asked)
    assert {url.params["metadataPrefix"] for url in recorded.asked} == {"arXivRaw"}
    assert done.cursor == {"from": "2026-03-01"}


def test_oai_reads_a_window_again_when_its_token_has_expired(hub, sources, recorded):
    answers = [
        oai("2602.00001", token="a"),
        oai_error("badResumptionToken"),
        oai("2602.00001", token="b"),
        oai("2602.00002"),
    ]
    recorded.answer = lambda url, headers: answers[len(recorded.asked) - 1]
    done = read(sources, "oai", "cs")
    assert (counts(done), done.error) == ((2, 0, 1), "")
    assert "from" in recorded.asked[2].params


def test_oai_gives_up_on_a_server_that_knows_none_of_its_tokens(sources, recorded):
    recorded.answer = lambda url, headers: (
        oai_error("badResumptionToken")
        if "resumptionToken" in url.params
        else oai("2602.00001", token="a")
    )
    done = read(sources, "oai", "cs")
    assert done.error == "arXiv answered badResumptionToken: said"
    assert len(recorded.asked) == 6


def test_oai_ends_when_a_token_leads_to_itself(sources, recorded):
    recorded.answer = lambda url, headers: oai("2602.00001", token="same")
    done = read(sources, "oai", "cs")
    assert done.error == "arXiv sends the same page for ever"
    assert len(recorded.asked) == 2


def test_oai_counts_what_arxiv_deleted_and_keeps_it(hub, sources, recorded, new_paper):
    hub.add([new_paper("2602.00009")])
    recorded.answer = lambda url, headers: oai("2602.00001", gone=["2602.00009"])
    done = read(sources, "oai", "cs")
    assert (counts(done), done.counts.deleted) == ((1, 0, 0), 1)
    assert hub.entry("2602.00009")


def test_oai_waits_as_long_as_it_is_told(sources, recorded):
    def answer(url, headers):
        if len(recorded.asked) == 1:
            return httpx.Response(503, headers={"retry-after": "42"})
        return oai("2602.00001")

    recorded.answer = answer
    done = read(sources, "oai", "cs")
    assert (counts(done), recorded.waited) == ((1, 0, 0), [42.0])


def test_oai_comes_back_later_when_it_is_to_wait_for_long(sources, recorded, clock):
    recorded.answer = lambda url, headers: httpx.Response(503, headers={"retry-after": "3600"})
    done = read(sources, "oai", "cs")
    assert "answered 503" in done.error and recorded.waited == []
    assert done.due == clock() + timedelta(hours=1)


def test_oai_keeps_what_is_whole_of_a_page_that_breaks_off_and_stays_there(hub, sources, recorded):
    page = oai("2602.00001", "2602.00002", token="next")
    broken = page[: page.index("Paper 2602.00002")]
    recorded.answer = lambda url, headers: broken
    done = read(sources, "oai", "cs", since="2026-02-20")
    assert done.error == "arXiv's answer breaks off, again and again"
    assert (counts(done), done.counts.rejected) == ((1, 0, 0), 1)
    assert len(recorded.asked) == 4
    assert done.cursor["from"] == "2026-02-20"
    answers = [page, oai("2602.00003")]
    recorded.answer = lambda url, headers: answers[len(recorded.asked) - 5]
    done = sources.sync(done.id, anyway=True)
    assert (counts(done), done.error) == ((2, 0, 1), "")


@pytest.mark.parametrize("answer", [b"", b"<html>busy</html>", b"\xff\xfe\x00", b"{}"])
def test_oai_takes_nothing_for_an_answer_that_is_none(sources, recorded, answer):
    recorded.answer = lambda url, headers: answer
    done = read(sources, "oai", "cs")
    assert "something else" in done.error
    assert (counts(done), dict(done.cursor)) == ((0, 0, 0), {})


# arXiv's query interface


def papers(first, number, day="2026-02-20"):
    made = (ENTRY.format(number=f"2602.{n:05}", day=day) for n in range(first, first + number))
    return "".join(made)


def test_arxiv_asks_in_slices_for_what_is_new(hub, sources, recorded, clock, monkeypatch):
    monkeypatch.setattr(arxiv, "SLICE", 2)

    def answer(url, headers):
        start = int(url.params["start"])
        return FEED.format(total=5, body=papers(start + 1, min(2, 5 - start)))

    recorded.answer = answer
    done = read(sources, "arxiv", "cat:cs.LG AND ti:kettle", since="2026-02-01")
    assert (counts(done), done.error) == ((5, 0, 0), "")
    assert [url.params["start"] for url in recorded.asked] == ["0", "2", "4"]
    asked = parse_qs(recorded.asked[0].query.decode())
    assert asked["search_query"] == [
        "(cat:cs.LG AND ti:kettle) AND submittedDate:[202602010000 TO 202603012359]"
    ]
    assert (asked["sortBy"], asked["sortOrder"]) == (["submittedDate"], ["descending"])
    clock.pass_(days=30)
    sources.sync(done.id)
    # Two weeks before the last walk: papers may be announced that late.
    assert "[202602150000 TO 202603312359]" in recorded.asked[3].params["search_query"]


def test_arxiv_goes_on_below_the_most_that_it_gives_for_one_question(
    hub, sources, recorded, monkeypatch
):
    monkeypatch.setattr(arxiv, "SLICE", 2)
    monkeypatch.setattr(arxiv, "MOST", 4)
    days = [date(2026, 2, 28) - timedelta(days=n) for n in range(7)]

    def answer(url, headers):
        until = url.params["search_query"].split(" TO ")[1][:8]
        start = int(url.params["start"])
        assert start + 2 <= 4
        there = [(n, day) for n, day in enumerate(days) if f"{day:%Y%m%d}" <= until]
        made = (ENTRY.format(number=f"2602.{n:05}", day=day) for n, day in there[start : start + 2])
        return FEED.format(total=len(there), body="".join(made))

    recorded.answer = answer
    done = read(sources, "arxiv", "all:tea", since="2026-02-01")
    assert (done.error, done.counts.new, len(ids(hub))) == ("", 7, 7)
    assert len(recorded.asked) == 4


def test_arxiv_asks_again_for_an_empty_answer_to_a_full_question(sources, recorded):
    def answer(url, headers):
        return FEED.format(total=1, body="" if len(recorded.asked) < 3 else papers(1, 1))

    recorded.answer = answer
    done = read(sources, "arxiv", "all:tea")
    assert (counts(done), recorded.waited) == ((1, 0, 0), [5.0, 20.0])
    recorded.answer = lambda url, headers: FEED.format(total=1, body="")
    done = sources.sync(done.id, anyway=True)
    assert done.error == "arXiv speaks of 1 papers and sends none"
    recorded.answer = lambda url, headers: FEED.format(total=0, body="")
    assert sources.sync(done.id, anyway=True).error == ""


def test_arxiv_tells_that_a_question_is_wrong(sources, recorded):
    error = (
        "<entry><id>http://arxiv.org/api/errors#q</id><title>Error</title>"
        "<summary>unknown field tea</summary></entry>"
    )
    recorded.answer = lambda url, headers: FEED.format(total=1, body=error)
    done = read(sources, "arxiv", "tea:kettle")
    assert done.error == "arXiv answered: unknown field tea"
    assert (len(recorded.asked), recorded.waited) == (1, [])


def test_arxiv_takes_what_is_whole_of_a_slice_that_stays_broken(
    hub, sources, recorded, monkeypatch
):
    monkeypatch.setattr(arxiv, "SLICE", 2)

    def answer(url, headers):
        start = int(url.params["start"])
        feed = FEED.format(total=4, body=papers(start + 1, 2))
        return feed[: feed.index("Paper 2602.00002") + 3] if start == 0 else feed

    recorded.answer = answer
    done = read(sources, "arxiv", "all:tea")
    assert (counts(done), done.counts.rejected, done.error) == ((3, 0, 0), 1, "")
    assert "breaks off" in done.problems[0][1] or "not whole" in done.problems[0][1]


# Announcements


ITEM = """<item><title>Paper {0}</title><link>https://arxiv.org/abs/{0}</link>
<description>arXiv:{0}v1 Announce Type: {1} \nAbstract: Tea, {1}.</description>
<pubDate>Sun, 01 Mar 2026 00:00:00 -0500</pubDate>
<arxiv:announce_type>{1}</arxiv:announce_type></item>"""


def rss(*items):
    body = "".join(ITEM.format(*item) for item in items)
    return f'<rss xmlns:arxiv="http://arxiv.org/schemas/atom"><channel>{body}</channel></rss>'


def test_rss_takes_new_papers_and_asks_for_replaced_ones_that_the_hub_has(
    hub, sources, recorded, new_paper
):
    hub.add([new_paper("2602.00009", "Paper 2602.00009", published=date(2026, 2, 3))])
    hub.add([new_paper("2602.00002", "Known already", published=date(2026, 2, 27))])

    def answer(url, headers):
        if url.host == "rss.arxiv.org":
            return rss(
                ("2602.00001", "new"),
                ("2602.00002", "cross"),
                ("2602.00009", "replace"),
                ("2602.00010", "replace"),
            )
        assert url.params["id_list"] == "2602.00009"
        entry = ENTRY.format(number="2602.00009", day="2026-02-03")
        return FEED.format(total=1, body=entry.replace("Tea.", "Tea, revised."))

    recorded.answer = answer
    done = read(sources, "rss", "cs.LG, cs.CL")
    assert str(recorded.asked[0]) == "https://rss.arxiv.org/rss/cs.LG+cs.CL"
    assert counts(done) == (1, 1, 1)
    revised = hub.entry("2602.00009").paper
    assert (revised.abstract, revised.published) == ("Tea, revised.", date(2026, 2, 3))
    # An announcement does not know the day of submission.
    assert hub.entry("2602.00002").paper.published == date(2026, 2, 27)
    assert hub.entry("2602.00001").paper.published == date(2026, 3, 1)
    assert hub.entry("2602.00010") is None


def test_feeds_are_asked_whether_they_changed(sources, recorded):
    def answer(url, headers):
        if headers.get("if-none-match") == '"1"':
            assert headers["if-modified-since"] == "Sun, 01 Mar 2026 05:00:00 GMT"
            return httpx.Response(304)
        told = {"etag": '"1"', "last-modified": "Sun, 01 Mar 2026 05:00:00 GMT"}
        body = httpx.ByteStream(rss(("2602.00001", "new")).encode())
        return httpx.Response(200, headers=told, stream=body)

    recorded.answer = answer
    for kind, what in (("rss", "cs.LG"), ("feed", "https://tea.example/feed.xml")):
        done = read(sources, kind, what)
        cursor = {"etag": '"1"', "modified": "Sun, 01 Mar 2026 05:00:00 GMT"}
        assert done.cursor == cursor
        again = sources.sync(done.id, anyway=True)
        assert (counts(again), again.error, again.cursor) == ((0, 0, 0), "", cursor)
    assert len(recorded.asked) == 4


def test_a_feed_that_became_an_error_page_is_asked_again_in_full(sources, recorded):
    recorded.answer = lambda url, headers: "<html><body>Down</body></html>"
    done = read(sources, "feed", "https://tea.example/papers.bib")
    assert done.error.startswith("https://tea.example/papers.bib: ") and dict(done.cursor) == {}
    recorded.answer = lambda url, headers: "@misc{a, title={Tea}, year=2018}"
    assert counts(sources.sync(done.id, anyway=True)) == (1, 0, 0)


def test_a_feed_never_leads_into_a_private_network(sources, recorded):
    recorded.answer = lambda url, headers: httpx.Response(
        302, headers={"location": "http://127.0.0.1/"}
    )
    done = read(sources, "feed", "https://tea.example/feed")
    assert "only https" in done.error
    for address in ("http://tea.example/", "file:///etc/passwd", "https://u:p@tea.example/"):
        with pytest.raises(ValueError, match=r"only https|user name"):
            sources.add("feed", address)


# From where a run ended


def test_arxiv_goes_on_in_the_slice_that_failed(hub, sources, recorded, clock, monkeypatch):
    monkeypatch.setattr(arxiv, "SLICE", 2)
    down = True

    def answer(url, headers):
        start = int(url.params["start"])
        if down and start == 2:
            return httpx.Response(404)
        return FEED.format(total=5, body=papers(start + 1, min(2, 5 - start)))

    recorded.answer = answer
    done = read(sources, "arxiv", "all:tea")
    assert (counts(done), done.error) == ((2, 0, 0), "export.arxiv.org answered 404 Not Found")
    down = False
    clock.pass_(days=1)
    done = sources.again().sync(done.id)
    assert (counts(done), done.error) == ((3, 0, 0), "")
    assert [url.params["start"] for url in recorded.asked] == ["0", "2", "2", "4"]
    # The next walk begins before the day with which this one began, not that on which it ended.
    assert done.cursor == {"since": "2026-02-15"}


def test_a_feed_of_ids_goes_on_with_those_that_were_not_asked_for(hub, sources, recorded):
    numbers = [f"2602.{n:05}" for n in range(450)]
    down = True

    def answer(url, headers):
        if url.host == "tea.example":
            return "\n".join(numbers)
        asked = url.params["id_list"].split(",")
        if down and numbers[200] in asked:
            return httpx.Response(404)
        made = (ENTRY.format(number=number, day="2026-02-20") for number in asked)
        return FEED.format(total=len(asked), body="".join(made))

    recorded.answer = answer
    done = read(sources, "feed", "https://tea.example/ids.txt")
    assert (counts(done), len(done.cursor["named"])) == ((200, 0, 0), 250)
    down = False
    done = sources.again().sync(done.id, anyway=True)
    assert (counts(done), done.error, "named" in done.cursor) == ((250, 0, 0), "", False)
    assert [url.host for url in recorded.asked].count("tea.example") == 1


def test_huggingface_goes_on_with_the_day_that_failed(hub, sources, recorded):
    down = True

    def answer(url, headers):
        day = url.params["date"]
        if down and day == "2026-02-27":
            return httpx.Response(404)
        return json.dumps([entry(f"2602.000{day[-2:]}", day)])

    recorded.answer = answer
    done = read(sources, "huggingface", "day", since="2026-02-25")
    assert (counts(done), dict(done.cursor)) == ((2, 0, 0), {"from": "2026-02-27"})
    down = False
    done = sources.again().sync(done.id, anyway=True)
    assert (counts(done), done.error) == ((3, 0, 0), "")
    assert len(hub.editions()) == 5


# Hugging Face


def entry(number, day):
    return {
        "paper": {
            "id": number,
            "title": f"Paper {number}",
            "publishedAt": "2026-02-01T00:00:00.000Z",
            "submittedOnDailyAt": f"{day}T00:00:00.000Z",
        }
    }


def test_huggingface_reads_days_through_their_pages_as_editions(hub, sources, recorded, clock):
    many = [entry(f"2602.{n:05}", "2026-02-27") for n in range(130)]

    def answer(url, headers):
        assert url.params["limit"] == "100"
        if url.params["date"] == "2026-02-27":
            page = int(url.params["p"])
            return json.dumps(many[page * 100 : page * 100 + 100])
        return "[]"

    recorded.answer = answer
    done = read(sources, "huggingface", "day", since="2026-02-26")
    assert (counts(done), done.error) == ((130, 0, 0), "")
    asked = [(url.params["date"], url.params["p"]) for url in recorded.asked]
    assert asked == [
        ("2026-02-26", "0"),
        ("2026-02-27", "0"),
        ("2026-02-27", "1"),
        ("2026-02-28", "0"),
        ("2026-03-01", "0"),
    ]
    assert hub.editions() == [date(2026, 2, 27)]
    order = [item.paper.id for item in hub.edition(date(2026, 2, 27))]
    assert order == [f"arxiv:2602.{n:05}" for n in range(130)]
    clock.pass_(days=1)
    again = sources.sync(done.id)
    assert (counts(again), again.error) == ((0, 0, 130), "")
    assert recorded.asked[5].params["date"] == "2026-02-27"


@pytest.mark.parametrize(
    ("what", "asked"),
    [("week", ["2026-W08", "2026-W09"]), ("month", ["2026-02", "2026-03"])],
)
def test_huggingface_reads_a_period_into_the_editions_of_its_days(
    hub, sources, recorded, what, asked
):
    def answer(url, headers):
        if url.params[what] == asked[0]:
            return json.dumps(
                [
                    entry("2602.00003", "2026-02-20"),
                    entry("2602.00001", "2026-02-19"),
                    entry("2602.00002", "2026-02-20"),
                ]
            )
        return "[]"

    recorded.answer = answer
    done = read(sources, "huggingface", what, since="2026-02-18")
    assert [url.params[what] for url in recorded.asked] == asked
    assert counts(done) == (3, 0, 0)
    assert hub.editions() == [date(2026, 2, 20), date(2026, 2, 19)]
    order = [item.paper.id for item in hub.edition(date(2026, 2, 20))]
    assert order == ["arxiv:2602.00003", "arxiv:2602.00002"]


@pytest.mark.parametrize("answer", ['[{"paper": {"id": "2602', '{"error": "no"}', "<html/>"])
def test_huggingface_writes_no_half_of_a_day(hub, sources, recorded, answer):
    recorded.answer = lambda url, headers: answer
    done = read(sources, "huggingface", "day")
    assert "Hugging Face" in done.error and hub.editions() == []
    assert recorded.waited == [5.0, 20.0, 60.0]


@pytest.mark.parametrize("kind", kinds.names())
@pytest.mark.parametrize("what", ["", " ", "a b(", "https://", "x" * 5000])
def test_every_kind_refuses_nonsense_in_words(kind, what):
    with pytest.raises(ValueError, match=r"expected|neither|no address|only https"):
        kinds.find(kind).checked(what)

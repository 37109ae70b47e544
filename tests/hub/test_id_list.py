import httpx
import pytest

from workingpapers.hub.feeds.reading import read
from workingpapers.hub.feeds.records import Rejected
from workingpapers.hub.feeds.remote import RemoteError

LIST = """# what we read
1808.00758
arXiv:hep-th/9901001v2   # an old one

https://arxiv.org/pdf/2401.00001v3.pdf
2401.00002, Kettles at Rest
% 2401.00003 is left out
1808.00758v4
the one about lids
"""

ENTRY = """<entry><id>http://arxiv.org/abs/{0}v1</id><title>Paper {0}</title>
<published>2018-08-02T00:00:00Z</published><summary>Tea.</summary></entry>"""
FEED = '<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom">{0}</feed>'
ERROR = (
    "<entry><id>http://arxiv.org/api/errors#x</id><title>Error</title>"
    "<summary>incorrect id format for {0}</summary></entry>"
)


def numbers(url):
    return url.params["id_list"].split(",")


def test_reads_ids_in_any_form_once():
    reading = read(LIST.encode())
    assert reading.format == "list of ids"
    assert [(item.place, item.arxiv.number) for item in reading.named] == [
        ("line 2", "1808.00758"),
        ("line 3", "hep-th/9901001"),
        ("line 5", "2401.00001"),
        ("line 6", "2401.00002"),
    ]
    assert list(reading.records) == [
        Rejected("line 9", "expected an arXiv id, got 'the one about lids'")
    ]


@pytest.mark.parametrize("text", ["dear diary\n1808.00758\nnothing", "1, 2, 3\n4, 5, 6"])
def test_other_texts_are_no_lists(text):
    (rejected,) = read(text.encode()).records
    assert rejected.place == "the file"


def test_ids_are_asked_for_some_hundred_at_a_time(hub, sources, recorded, tmp_path):
    ids = [f"2401.{n:05}" for n in range(1, 451)]
    recorded.answer = lambda url, headers: FEED.format("".join(map(ENTRY.format, numbers(url))))
    file = tmp_path / "ids.txt"
    file.write_text("\n".join(ids))
    steps = []
    report = hub.load(str(file), on_progress=lambda *step: steps.append(step))
    assert (report.new, report.rejected) == (450, ())
    assert [len(numbers(url)) for url in recorded.asked] == [200, 200, 50]
    assert [url.params["max_results"] for url in recorded.asked] == ["200", "200", "50"]
    assert steps == [(200, 450), (400, 450), (450, 450)]
    assert hub.load(str(file)).same == 450


def test_ids_that_arxiv_does_not_know_are_named_with_their_line(hub, sources, recorded, tmp_path):
    there = {"1808.00758", "hep-th/9901001"}
    recorded.answer = lambda url, headers: FEED.format(
        "".join(ENTRY.format(number) for number in numbers(url) if number in there)
    )
    file = tmp_path / "ids.txt"
    file.write_text("1808.00758\n2401.99999\nhep-th/9901001")
    report = hub.load(str(file))
    assert report.new == 2
    assert report.rejected == (Rejected("line 2", "arXiv sends nothing for 2401.99999"),)


def test_one_id_that_arxiv_refuses_does_not_spoil_the_others(hub, sources, recorded):
    def answer(url, headers):
        if "2401.00003" in numbers(url):
            body = FEED.format(ERROR.format("2401.00003")).encode()
            kind = {"content-type": "application/atom+xml"}
            return httpx.Response(400, headers=kind, stream=httpx.ByteStream(body))
        return FEED.format("".join(map(ENTRY.format, numbers(url))))

    recorded.answer = answer
    report = hub.load(", ".join(f"2401.0000{n}" for n in range(1, 6)))
    assert (report.new, len(report.rejected)) == (4, 1)
    assert str(report.rejected[0]) == (
        "2401.00003: arXiv answered: incorrect id format for 2401.00003"
    )


def test_an_empty_answer_is_asked_for_again(hub, sources, recorded, monkeypatch):
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    empty = FEED.format(
        '<o:totalResults xmlns:o="http://a9.com/-/spec/opensearch/1.1/">1</o:totalResults>'
    )
    recorded.answer = lambda url, headers: (
        empty if len(recorded.asked) < 3 else FEED.format(ENTRY.format("1808.00758"))
    )
    assert hub.load("1808.00758").new == 1
    assert waited == [5.0, 20.0]


def test_where_arxiv_falls_silent_whole_batches_stay(hub, sources, recorded, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    recorded.answer = lambda url, headers: (
        FEED.format("".join(map(ENTRY.format, numbers(url))))
        if len(recorded.asked) == 1
        else httpx.Response(503)
    )
    with pytest.raises(RemoteError, match="answered 503"):
        hub.load(",".join(f"2401.{n:05}" for n in range(1, 301)))
    assert hub.papers().total == 200

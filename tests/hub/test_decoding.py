import pytest
from hypothesis import given
from hypothesis import strategies as st

from workingpapers.hub.feeds.decoding import decode

TEXT = "Naïve kettles\n\n  • 4 authors\n·\nMay 29 5\n“Größe” costs 3 €, and Łódź is far.\n"


@pytest.mark.parametrize(
    "codec",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"],
)
def test_finds_the_encoding_by_itself(codec):
    assert decode(TEXT.encode(codec)) == TEXT
    assert decode(TEXT.replace("\n", "\r\n").encode(codec)) == TEXT


@pytest.mark.parametrize("codec", ["cp1252", "latin-1"])
def test_reads_what_eight_bits_can_hold(codec):
    text = "Naïve kettles · Größe é à\n" * 3
    assert decode(text.encode(codec)) == text


def test_old_line_ends_become_new_ones():
    assert decode(b"a\rb\r\nc\n") == "a\nb\nc\n"


def test_a_declared_encoding_is_believed_where_utf8_is_impossible():
    html = '<html><head><meta charset="iso-8859-15"><p>3 € für Öl, 5 € für Tee'
    assert decode(html.encode("iso-8859-15")) == html
    xml = '<?xml version="1.0" encoding="windows-1250"?><a>Łódź, Šť</a>'
    assert decode(xml.encode("cp1250")) == xml


def test_a_false_declaration_is_not_believed():
    xml = '<?xml version="1.0" encoding="latin-1"?><a>Łódź</a>'
    assert decode(xml.encode()) == xml
    assert decode(xml.encode("utf-16")) == xml


def test_text_that_was_encoded_twice_is_mended():
    text = "  • 4 authors\n·\nMay 29 5\nNaïve Größe, “quoted\n"
    assert decode(text.encode().decode("cp1252").encode()) == text


def test_one_bad_byte_does_not_spoil_the_rest():
    data = TEXT.encode()
    assert decode(data + b"\xe2\x80") == TEXT + "\ufffd"
    assert decode(data[:3] + b"\xff" + data[3:]).endswith(TEXT[3:])


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(data):
    text = decode(data)
    assert "\r" not in text and "\x00" not in text


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x24F), min_size=1))
def test_utf8_is_never_taken_for_anything_else(text):
    if text[0] != "\ufeff" and not any(mark in text for mark in ("Â", "Ã", "â")):
        assert decode(text.encode()) == text.replace("\x00", "")

"""Talking to a mail server: its address, TLS, signing in, connections that end."""

import socket
import ssl
from pathlib import Path

import pytest
from aiosmtpd.smtp import AuthResult

from workingpapers.hub.mail.smtp import Down, Smtp
from workingpapers.hub.settings import Settings

KEYS = Path(__file__).with_name("keys")


@pytest.mark.parametrize(
    ("address", "host", "port", "tls", "starttls"),
    [
        ("smtp://127.0.0.1", "127.0.0.1", 25, False, False),
        ("smtp://localhost:2525", "localhost", 2525, False, False),
        ("smtp://[::1]:25", "::1", 25, False, False),
        ("smtp://mail.example", "mail.example", 587, False, True),
        ("smtp://us%40er:p%3Aw@mail.example:25", "mail.example", 25, False, True),
        ("smtp://relay.example:25?starttls=no", "relay.example", 25, False, False),
        ("smtps://mail.example", "mail.example", 465, True, False),
        ("smtps://localhost", "localhost", 465, True, False),
    ],
)
def test_tls_is_used_wherever_the_server_is_another_machine(address, host, port, tls, starttls):
    made = Smtp.at(address)
    assert (made.host, made.port, made.implicit_tls, made.starttls) == (host, port, tls, starttls)


def test_user_and_password_are_read_and_not_shown():
    made = Smtp.at("smtp://us%40er:p%3Aw@mail.example:25")
    assert (made.user, made.password) == ("us@er", "p:w")
    assert "p:w" not in repr(made)
    assert "p%3Aw" not in repr(Settings(Path(), "", smtp="smtp://us%40er:p%3Aw@mail.example"))


@pytest.mark.parametrize(
    "wrong",
    [
        "mail.example",
        "https://secret@mail.example",
        "smtp://",
        "smtp://mail.example:secret",
        "smtp://u:secret@mail.example/path",
        "smtp://u:secret@mail.example?starttls=maybe",
        "smtp://u:secret@relay.example:25?starttls=no",
    ],
)
def test_an_address_of_a_server_that_is_none_is_told_without_the_password(wrong):
    with pytest.raises(ValueError, match="WORKINGPAPERS_SMTP") as caught:
        Smtp.at(wrong)
    assert "secret" not in str(caught.value)


def test_a_certificate_is_checked_before_anything_is_said(new_smtp, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(KEYS / "localhost.pem")
    secure = new_smtp(tls_context=context, require_starttls=True)
    sent = b"From: a@lab.example\r\n\r\nx\r\n"
    transport = Smtp("localhost", secure.port, starttls=True)
    with pytest.raises(Down, match="certificate"):
        transport.ready()
    monkeypatch.setenv("SSL_CERT_FILE", str(KEYS / "localhost.pem"))
    transport.ready()
    transport.send(sent, "ada@lab.example", "b+x@lab.example")
    transport.close()
    assert secure.recipients == ["ada@lab.example"]


def test_a_server_without_tls_gets_nothing_where_tls_is_wanted(smtp):
    with pytest.raises(Down, match="STARTTLS"):
        Smtp("127.0.0.1", smtp.port, starttls=True).ready()
    assert smtp.taken == []


def test_user_and_password_are_shown_to_the_server_alone(new_smtp):
    def known(server, session, envelope, mechanism, data):
        return AuthResult(success=data.password == b"right", handled=False)

    asks = new_smtp(authenticator=known, auth_require_tls=False)
    right = Smtp("127.0.0.1", asks.port, "papers", "right", starttls=False)
    right.ready()
    right.send(b"From: a@b.example\r\n\r\nx\r\n", "ada@lab.example", "b+x@lab.example")
    right.close()
    assert len(asks.taken) == 1
    with pytest.raises(Down, match="does not take user and password") as caught:
        Smtp("127.0.0.1", asks.port, "papers", "wrong", starttls=False).ready()
    assert "wrong" not in str(caught.value)


def test_one_connection_takes_a_hundred_messages(smtp):
    transport = Smtp("127.0.0.1", smtp.port, starttls=False)
    for _ in range(101):
        transport.ready()
        transport.send(b"From: a@b.example\r\n\r\nx\r\n", "ada@lab.example", "b+x@lab.example")
    transport.close()
    assert len(smtp.taken) == 101 and smtp.connections == 2


def test_a_connection_that_fell_asleep_is_made_anew(smtp):
    now = [0.0]
    transport = Smtp("127.0.0.1", smtp.port, starttls=False, clock=lambda: now[0])
    transport.ready()
    transport._server.sock.shutdown(socket.SHUT_RDWR)
    now[0] = 100.0
    transport.ready()
    transport.send(b"From: a@b.example\r\n\r\nx\r\n", "ada@lab.example", "b+x@lab.example")
    transport.close()
    assert smtp.connections == 2 and len(smtp.taken) == 1

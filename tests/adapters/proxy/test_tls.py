"""With certificates nobody listens in, and with authorities nobody else gets in."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization as pem

from agentd.errors import ConfigError, ErrorCode
from agentd.proxy.tls import TlsFiles
from agentd.settings import Proxy
from tests.adapters.proxy.certificates import NAME, Authority, Files, client_context
from tests.adapters.proxy.world import (
    LIST,
    Caller,
    World,
    connections,
    deadlines,
    proxy_world,
    until,
)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "stranger")


def settings_for(files: Files, authority: Authority | None = None) -> Proxy:
    return Proxy(
        enabled=True,
        certificate_file=files.certificate,
        key_file=files.key,
        client_ca_file=authority.file if authority else None,
    )


@asynccontextmanager
async def tls_world(
    authority: Authority, *, is_mutual: bool, header_s: float = 300.0
) -> AsyncIterator[World]:
    settings = settings_for(authority.issue(NAME), authority if is_mutual else None)
    async with proxy_world(settings=settings, deadlines=deadlines(header_s=header_s)) as world:
        yield world


def by(world: World, context: ssl.SSLContext) -> Caller:
    return Caller(world.caller.port, context)


async def test_a_certificate_makes_it_tls(authority: Authority) -> None:
    async with tls_world(authority, is_mutual=False) as world:
        answer = await by(world, client_context(authority.file)).ask(LIST)
        assert answer.status == 200
        assert world.written.calls[0]["subject"] == ""


async def test_plain_http_is_no_longer_understood(authority: Authority) -> None:
    async with tls_world(authority, is_mutual=False) as world:
        assert (await world.caller.ask(LIST)).status in (0, 400)
        assert world.driver.calls == 0


def test_old_versions_of_tls_are_refused(authority: Authority) -> None:
    files = authority.issue(NAME)
    context = TlsFiles(files.certificate, files.key, None).context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_a_caller_with_a_certificate_is_let_in_and_named(authority: Authority) -> None:
    own = authority.issue("manager", "agentcube")
    async with tls_world(authority, is_mutual=True) as world:
        answer = await by(world, client_context(authority.file, own)).ask(LIST)
        assert answer.status == 200
        assert world.written.calls[0]["subject"] == "O=agentcube,CN=manager"


async def test_a_certificate_does_not_replace_the_token(authority: Authority) -> None:
    own = authority.issue("manager")
    async with tls_world(authority, is_mutual=True) as world:
        answer = await by(world, client_context(authority.file, own)).ask(LIST, token="wrong")
        assert answer.status == 401
        assert world.written.calls[0]["subject"] == "CN=manager"


@pytest.mark.parametrize("kind", ["none", "a stranger's"])
async def test_a_caller_without_one_of_its_authority_is_not_let_in(
    authority: Authority, stranger: Authority, kind: str
) -> None:
    own = stranger.issue("manager") if kind != "none" else None
    async with tls_world(authority, is_mutual=True) as world:
        try:
            answer = await by(world, client_context(authority.file, own)).ask(LIST)
        except (ssl.SSLError, ConnectionError):
            pass
        else:
            # By TLS 1.3 a client is done before its certificate is looked at.
            assert answer.status == 0
        assert world.driver.calls == 0
        assert world.written.calls == []


async def test_a_handshake_that_does_not_come_ends_the_connection(authority: Authority) -> None:
    async with (
        tls_world(authority, is_mutual=True, header_s=0.1) as world,
        world.caller.connected() as (reader, _),
    ):
        await until(connections)
        assert await reader.read() == b""
        await until(lambda: not connections())


async def test_headers_that_do_not_come_end_a_tls_connection_too(authority: Authority) -> None:
    async with tls_world(authority, is_mutual=False, header_s=2.0) as world:
        caller = by(world, client_context(authority.file))
        assert (await caller.send(b"GET /hea")).status == 0


async def test_leaving_in_the_middle_of_a_handshake_leaves_nothing(authority: Authority) -> None:
    async with tls_world(authority, is_mutual=True) as world:
        sockets = [await asyncio.open_connection("127.0.0.2", world.caller.port) for _ in "abc"]
        await until(lambda: len(connections()) == 3)
    for reader, writer in sockets:
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


# -- renewal --------------------------------------------------------------------------------------


async def serial_of(caller: Caller) -> int:
    async with caller.connected() as (_, writer):
        served = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(served).serial_number


async def test_renewed_files_are_served_to_who_comes_next(authority: Authority) -> None:
    async with tls_world(authority, is_mutual=False) as world:
        caller = by(world, client_context(authority.file))
        first = await serial_of(caller)
        authority.issue(NAME)
        second = await serial_of(caller)
        assert first != second
        assert await serial_of(caller) == second


async def test_a_renewal_that_is_half_done_changes_nothing_until_it_is_done(
    authority: Authority,
) -> None:
    files = authority.issue(NAME)
    async with proxy_world(settings=settings_for(files)) as world:
        caller = by(world, client_context(authority.file))
        first = await serial_of(caller)
        kept, other = files.certificate.read_bytes(), authority.issue("other")
        files.certificate.write_bytes(other.certificate.read_bytes())
        assert await serial_of(caller) == first
        assert "proxy.tls.failed" in world.written.text
        files.certificate.unlink()
        assert await serial_of(caller) == first
        files.key.write_bytes(other.key.read_bytes())
        files.certificate.write_bytes(other.certificate.read_bytes())
        assert await serial_of(caller) != first
        assert kept != files.certificate.read_bytes()


async def test_an_authority_that_is_replaced_no_longer_vouches(
    authority: Authority, stranger: Authority
) -> None:
    own, context = authority.issue("manager"), authority.issue(NAME)
    async with proxy_world(settings=settings_for(context, authority)) as world:
        caller = by(world, client_context(authority.file, own))
        assert (await caller.ask(LIST)).status == 200
        trusted = authority.file.read_bytes()
        os.replace(stranger.file, authority.file)
        assert authority.file.read_bytes() != trusted
        try:
            answer = await caller.ask(LIST)
        except (ssl.SSLError, ConnectionError):
            return
        assert answer.status == 0


@pytest.mark.parametrize("broken", ["certificate", "key", "authority", "another key", "encrypted"])
def test_files_that_cannot_be_served_with_are_refused(
    authority: Authority, tmp_path: Path, broken: str
) -> None:
    files, client_ca = authority.issue(NAME), authority.file
    match broken:
        case "certificate":
            files.certificate.unlink()
        case "key":
            files.key.write_text("-----BEGIN")
        case "authority":
            client_ca = tmp_path / "none.pem"
        case "another key":
            files = Files(files.certificate, authority.issue("other").key)
        case "encrypted":
            files.key.write_bytes(_encrypted(files.key))
    with pytest.raises(ConfigError, match="certificate") as caught:
        TlsFiles(files.certificate, files.key, client_ca)
    assert caught.value.code is ErrorCode.CONFIG_INVALID


def _encrypted(path: Path) -> bytes:
    key = pem.load_pem_private_key(path.read_bytes(), None)
    encryption = pem.BestAvailableEncryption(b"secret")
    return key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, encryption)

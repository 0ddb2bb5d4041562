"""The client speaks the API server's language, and survives whatever comes back."""

from __future__ import annotations

import asyncio
import gc
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web

from controlplane.api.meta import JsonObject
from controlplane.errors import (
    ConfigError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InvariantError,
    NotFoundError,
    PeerError,
    UnavailableError,
)
from controlplane.kube.api import KubeApi, WatchEvent, WatchKind
from controlplane.kube.client import KubeClient, open_kube
from controlplane.kube.connect import KubeSettings
from controlplane.kube.owned_socket import OwnedSocket
from controlplane.kube.resource import NODES, PODS, TASKS
from tests.fakes.kube_silent import SilentTls
from tests.fakes.kube_wire import Answer, WireServer, breaks, hangs, replies, serve_wire, streams
from tests.kube.pki import Authority

POD: JsonObject = {"metadata": {"name": "p", "namespace": "x", "managedFields": [{}]}}


def _config(path: Path, url: str, **cluster: Any) -> Path:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "u", "user": {"tokenFile": "token"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.parent.mkdir(exist_ok=True)
    (path.parent / "token").write_text("first")
    path.write_text(json.dumps(config))
    return path


async def _open(config: Path, **changes: Any) -> KubeClient:
    settings = KubeSettings(kubeconfig=str(config), user_agent="prog/1", **changes)
    return await open_kube(settings, environ={}, random=Random(1))


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with serve_wire() as made:
        yield made


@pytest.fixture
async def client(server: WireServer, tmp_path: Path) -> AsyncIterator[KubeClient]:
    config = _config(tmp_path / "config", server.url)
    limits = {"response_max_bytes": 10_000, "line_max_bytes": 1000}
    async with await _open(config, **limits) as made:
        yield made


async def _collect(api: KubeApi) -> list[WatchEvent]:
    return [event async for event in api.watch(PODS, resource_version="5")]


def _line(kind: str, body: JsonObject) -> bytes:
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


# What is sent


async def test_each_verb_asks_as_the_server_expects(server: WireServer, client: KubeClient) -> None:
    server.answer = replies(POD)
    await client.get(PODS, "p", "x")
    await client.create(PODS, POD)
    await client.replace(PODS, POD, subresource="status")
    await client.merge(TASKS, "t", {"status": None}, namespace="x", subresource="status")
    await client.apply(NODES, {"metadata": {"name": "n"}}, manager="me", force=True)
    await client.delete(PODS, "p", namespace="x", uid="u", grace_s=0)
    pods, group = "/api/v1/namespaces/x/pods", "/apis/runtime.agentcube.volcano.sh/v1alpha1"
    assert [(ask.method, ask.path) for ask in server.asked] == [
        ("GET", f"{pods}/p"),
        ("POST", pods),
        ("PUT", f"{pods}/p/status"),
        ("PATCH", f"{group}/namespaces/x/sandboxsnapshottasks/t/status"),
        ("PATCH", "/api/v1/nodes/n"),
        ("DELETE", f"{pods}/p"),
    ]
    assert [ask.headers["Content-Type"] for ask in server.asked[1:]] == [
        "application/json",
        "application/json",
        "application/merge-patch+json",
        "application/apply-patch+yaml",
        "application/json",
    ]
    assert server.asked[1].body == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "x"},
    }
    assert server.asked[3].body == {"status": None}
    assert server.asked[4].query == {"fieldManager": "me", "force": "true"}
    assert server.asked[5].body["preconditions"] == {"uid": "u"}
    assert server.asked[5].body["gracePeriodSeconds"] == 0
    assert {ask.headers["Authorization"] for ask in server.asked} == {"Bearer first"}
    assert {ask.headers["User-Agent"] for ask in server.asked} == {"prog/1"}


async def test_a_list_asks_for_pages_and_selections(server: WireServer, client: KubeClient) -> None:
    server.answer = replies({"metadata": {"resourceVersion": "1"}, "items": []})
    await client.list(PODS, labels="a in (b,c)", fields="spec.nodeName=n", page="to+ken=")
    assert server.asked[0].path == "/api/v1/pods"
    assert server.asked[0].query == {
        "limit": "500",
        "labelSelector": "a in (b,c)",
        "fieldSelector": "spec.nodeName=n",
        "continue": "to+ken=",
    }


async def test_a_watch_asks_for_bookmarks_and_an_end(
    server: WireServer, client: KubeClient
) -> None:
    server.answer = streams()
    assert await _collect(client) == []
    query = server.asked[0].query
    assert 300 <= int(query.pop("timeoutSeconds")) <= 600
    assert query == {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": "5"}


async def test_a_name_cannot_leave_its_path(server: WireServer, client: KubeClient) -> None:
    server.answer = replies({}, 404)
    with pytest.raises(NotFoundError):
        await client.get(PODS, "../secrets/s", "x")
    assert server.asked[0].path == "/api/v1/namespaces/x/pods/../secrets/s"  # decoded
    with pytest.raises(InvariantError):
        await client.get(PODS, "", "x")
    with pytest.raises(InvariantError):
        await client.delete(PODS, "p")


# What comes back


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (breaks, UnavailableError),
        (replies(b"not json"), PeerError),
        (replies(b"[]"), PeerError),
        (replies(b"{" + b" " * 20_000 + b"}"), PeerError),
        (streams(b'{"metadata":', then="break"), UnavailableError),
        (replies({"reason": "Conflict"}, 409), ConflictError),
        (replies(b"404 page not found", 404), NotFoundError),
        (replies(b"<html>", 502), UnavailableError),
        (replies(b"x" * 20_000, 500), PeerError),
        (replies(b"", 204), PeerError),
    ],
    ids=["broken", "no json", "no object", "too long", "broken within", "conflict", "not found",
         "proxy", "long refusal", "empty"],
)  # fmt: skip
async def test_answers_become_errors(
    server: WireServer, client: KubeClient, answer: Answer, expected: type[Exception]
) -> None:
    server.answer = answer
    with pytest.raises(expected):
        await client.get(PODS, "p", "x")
    server.answer = replies(POD)
    assert await client.get(PODS, "p", "x")


async def test_no_answer_ends_in_time(server: WireServer, tmp_path: Path) -> None:
    server.answer = hangs
    async with await _open(_config(tmp_path / "config", server.url), call_timeout_s=0.1) as client:
        with pytest.raises(UnavailableError, match="TimeoutError"):
            await client.get(PODS, "p", "x")
        with pytest.raises(UnavailableError):
            await client.served_versions("apps")


async def test_an_answer_that_trickles_ends_in_time(server: WireServer, tmp_path: Path) -> None:
    server.answer = streams(b"{", then="hang")
    async with await _open(_config(tmp_path / "config", server.url), call_timeout_s=0.1) as client:
        with pytest.raises(UnavailableError):
            await client.get(PODS, "p", "x")


async def test_nobody_there_is_an_outage(tmp_path: Path) -> None:
    async with serve_wire() as server:
        url = server.url
    async with await _open(_config(tmp_path / "config", url)) as client:
        with pytest.raises(UnavailableError):
            await client.get(PODS, "p", "x")
        with pytest.raises(UnavailableError):
            await _collect(client)


async def test_the_server_may_ask_for_a_pause(server: WireServer, client: KubeClient) -> None:
    server.answer = replies(b"busy", 429, Retry_After="7")
    with pytest.raises(UnavailableError) as caught:
        await client.list(PODS)
    assert caught.value.delay_s == 7.0


async def test_a_cancelled_call_leaves_nothing(server: WireServer, client: KubeClient) -> None:
    is_asked = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        is_asked.set()
        return await hangs(request)

    server.answer = answer
    call = asyncio.create_task(client.get(PODS, "p", "x"))
    await is_asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_closed_client_says_so(server: WireServer, client: KubeClient) -> None:
    await client.close()
    await client.close()
    with pytest.raises(UnavailableError, match="closed"):
        await client.get(PODS, "p", "x")


# Watches


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_events_survive_any_cutting(
    server: WireServer, client: KubeClient, size: int
) -> None:
    lines = _line("ADDED", POD) + b"\n" + _line("BOOKMARK", {"metadata": {"name": "ü"}})
    server.answer = streams(*(lines[at : at + size] for at in range(0, len(lines), size)))
    assert [event.kind for event in await _collect(client)] == [WatchKind.ADDED, WatchKind.BOOKMARK]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (replies({"reason": "Expired"}, 410), ExpiredError),
        (streams(_line("ERROR", {"code": 410, "reason": "Expired"})), ExpiredError),
        (streams(_line("ERROR", {"code": 500})), UnavailableError),
        (streams(b"garbage\n"), PeerError),
        (streams(b"x" * 2000, then="hang"), PeerError),
        (streams(b'{"type":"ADD'), UnavailableError),
        (streams(b'{"type":"ADD', then="break"), UnavailableError),
        (streams(then="break"), UnavailableError),
        (breaks, UnavailableError),
        (replies(b"", 503), UnavailableError),
    ],
    ids=["expired", "expired within", "error within", "garbage", "endless line", "truncated line",
         "broken line", "broken", "no answer", "unavailable"],
)  # fmt: skip
async def test_a_watch_ends_in_an_error_of_its_kind(
    server: WireServer, client: KubeClient, answer: Answer, expected: type[Exception]
) -> None:
    server.answer = answer
    with pytest.raises(expected):
        await _collect(client)


async def test_events_before_an_error_are_delivered(server: WireServer, client: KubeClient) -> None:
    server.answer = streams(_line("ADDED", POD), b"garbage\n")
    watch = client.watch(PODS, resource_version="5")
    assert (await anext(watch)).kind is WatchKind.ADDED
    with pytest.raises(PeerError):
        await anext(watch)


async def test_a_silent_watch_is_taken_for_dead(server: WireServer, tmp_path: Path) -> None:
    server.answer = streams(_line("ADDED", POD), then="hang")
    async with await _open(_config(tmp_path / "config", server.url), silence_s=2.0) as client:
        assert len(await _collect(client)) == 1


async def test_a_watch_without_headers_is_an_outage(server: WireServer, tmp_path: Path) -> None:
    server.answer = hangs
    async with await _open(_config(tmp_path / "config", server.url), silence_s=0.1) as client:
        with pytest.raises(UnavailableError):
            await _collect(client)


async def test_leaving_a_watch_closes_its_connection(
    server: WireServer, client: KubeClient
) -> None:
    is_gone = asyncio.Event()
    inner = streams(_line("ADDED", POD), then="hang")

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await inner(request)
        finally:
            is_gone.set()

    server.answer = answer
    watch = client.watch(PODS, resource_version="5")
    await anext(watch)
    await watch.aclose()
    await client.close()
    await is_gone.wait()


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nxxxx",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
    ],
    ids=["no http", "bad length", "bad chunk", "bad gzip", "endless header"],
)
async def test_what_is_not_http_is_an_outage(tmp_path: Path, raw: bytes) -> None:
    async def garble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(garble, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with await _open(_config(tmp_path / "config", url)) as client:
            with pytest.raises(UnavailableError):
                await client.get(PODS, "p", "x")
            with pytest.raises(UnavailableError):
                await _collect(client)


# Credentials


def _guarded(token: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        is_good = request.headers.get("Authorization") == f"Bearer {token}"
        return web.json_response(POD if is_good else {}, status=200 if is_good else 401)

    return answer


async def test_a_token_that_was_changed_is_read_anew(
    server: WireServer, client: KubeClient, tmp_path: Path
) -> None:
    server.answer = _guarded("second")
    (tmp_path / "token").write_text("second")
    await asyncio.gather(*(client.get(PODS, "p", "x") for _ in range(5)))
    refused = [ask for ask in server.asked if ask.headers["Authorization"] == "Bearer first"]
    assert len(refused) == 5


async def test_new_credentials_do_not_break_a_watch_on_the_old(
    server: WireServer, client: KubeClient, tmp_path: Path
) -> None:
    may_end = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return await _guarded("second")(request)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(_line("ADDED", POD))
        await may_end.wait()
        await response.write(_line("DELETED", POD))
        return response

    server.answer = answer
    watch = client.watch(PODS, resource_version="5")
    await anext(watch)
    (tmp_path / "token").write_text("second")
    await client.get(PODS, "p", "x")
    may_end.set()
    assert [event.kind async for event in watch] == [WatchKind.DELETED]


async def test_closing_ends_what_is_open(server: WireServer, client: KubeClient) -> None:
    server.answer = streams(_line("ADDED", POD), then="hang")
    watch = client.watch(PODS, resource_version="5")
    await anext(watch)
    waiting = asyncio.ensure_future(anext(watch))
    is_asked = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        is_asked.set()
        return await hangs(request)

    server.answer = answer
    calls = [asyncio.create_task(client.get(PODS, "p", "x")) for _ in range(3)]
    await is_asked.wait()
    await client.close()
    for ended in await asyncio.gather(waiting, *calls, return_exceptions=True):
        assert isinstance(ended, UnavailableError)


async def test_closing_ends_the_connections_of_calls_that_were_given_up(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with SilentTls(authority.serving("server", ["127.0.0.1"])) as server:
        config = _config(
            tmp_path / "kube" / "config",
            server.url,
            **{"certificate-authority": str(authority.certificate)},
        )
        client = await _open(config)
        call = asyncio.create_task(client.get(PODS, "p", "x"))
        await asyncio.to_thread(server.was_asked.wait)
        call.cancel()
        await asyncio.wait([call])
        await client.close()
        assert not [sock for sock in gc.get_objects() if _is_open(sock)]


def _is_open(found: object) -> bool:
    return type(found) is OwnedSocket and found.fileno() >= 0


async def test_a_token_that_is_refused_is_not_read_in_a_loop(
    server: WireServer, client: KubeClient
) -> None:
    server.answer = _guarded("second")
    for _ in range(3):
        with pytest.raises(ForbiddenError, match="credentials"):
            await client.get(PODS, "p", "x")
    assert len(server.asked) == 4


async def test_credentials_that_cannot_be_read_anew_leave_the_refusal(
    server: WireServer, client: KubeClient, tmp_path: Path
) -> None:
    server.answer = _guarded("second")
    (tmp_path / "config").unlink()
    with pytest.raises(ForbiddenError):
        await client.get(PODS, "p", "x")


async def test_a_service_account_is_used_in_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    pair = authority.serving("server", ["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    (tmp_path / "token").write_text("account")
    async with serve_wire(context) as server:
        server.answer = _guarded("account")
        settings = KubeSettings(service_account_dir=str(tmp_path))
        port = server.url.rpartition(":")[2]
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}
        (tmp_path / "ca.crt").write_bytes(authority.certificate.read_bytes())
        async with await open_kube(settings, environ=environ) as client:
            assert await client.get(PODS, "p", "x")


async def test_a_server_with_a_foreign_certificate_is_not_talked_to(tmp_path: Path) -> None:
    pair = Authority(tmp_path).serving("server", ["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    other = Authority(tmp_path, "other").certificate
    async with serve_wire(context) as server:
        server.answer = replies(POD)
        config = _config(
            tmp_path / "kube" / "config", server.url, **{"certificate-authority": str(other)}
        )
        async with await _open(config) as client:
            with pytest.raises(UnavailableError, match=r"[Cc]ertificate"):
                await client.get(PODS, "p", "x")
        assert server.asked == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "clusters: [1]",
        "current-context: nothing",
        "{",
        "clusters: [{name: a}]\ncurrent-context: a",
    ],
)
async def test_a_broken_kubeconfig_is_a_configuration_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(ConfigError):
        await _open(path)


async def test_no_kubeconfig_is_a_configuration_error(tmp_path: Path) -> None:
    for environ in ({}, {"HOME": str(tmp_path)}, {"KUBERNETES_SERVICE_HOST": "h"}):
        with pytest.raises(ConfigError):
            await open_kube(KubeSettings(service_account_dir=str(tmp_path)), environ=environ)


def test_a_server_that_resets_every_connection_costs_uvloop_no_other_descriptor() -> None:
    """Without sockets that know what is theirs, this ends by SIGABRT or with deaf listeners."""
    program = [sys.executable, "-m", "tests.fakes.reset_storm", "100"]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]

"""What goes over the wire: the openai client's address and headers, the key, and the environment's proxy."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

pytest.importorskip("openai", reason="the extra 'generate' is not installed")
pytest.importorskip("aiohttp", reason="the extra 'generate' is not installed")

from instruct_builders.generate.openai_transport import OpenAITransport
from instruct_builders.generate.sending import Unreachable

BODY = json.dumps({"model": "m", "messages": []}).encode()


def send(
    base_url: str, key: str = "", answer: bytes = b"HTTP/1.1 200 OK\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\n{}"
):
    """Sends one request to a bare server at `{port}`; gives the request's first line, its headers and the reply."""
    heads = []

    async def serve(reader, writer) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n"))
        assert await reader.readexactly(len(BODY)) == BODY
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("http_proxy", f"http://127.0.0.1:{port}")
            environment.setenv("no_proxy", "127.0.0.1,localhost")
            transport = OpenAITransport(base_url.format(port=port), key, 4, 10.0)
            try:
                return await transport(BODY, "name")
            finally:
                await transport.aclose()
                server.close()
                await server.wait_closed()

    reply = asyncio.run(main())
    line, *headers = heads[0]
    return line, {name.lower(): value for name, _, value in (one.partition(": ") for one in headers)}, reply


def test_a_request_is_the_clients():
    line, headers, reply = send("http://127.0.0.1:{port}/v1/", key="sk-abc")
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert headers["authorization"] == "Bearer sk-abc" and headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("AsyncOpenAI")
    assert (reply.status, reply.headers.get("retry-after"), reply.body) == (200, "7", b"{}")


def test_user_and_password_in_the_address_are_sent_instead_of_a_key():
    line, headers, _ = send("http://me:secret@127.0.0.1:{port}/v1")
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert headers["authorization"] == "Basic " + base64.b64encode(b"me:secret").decode()


def test_the_environments_proxy_is_asked_for_other_hosts():
    line, headers, reply = send("http://model.invalid/v1")
    assert line == "POST http://model.invalid/v1/chat/completions HTTP/1.1"
    assert headers["host"] == "model.invalid" and reply.status == 200


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}"])
def test_what_is_no_reply_is_a_connection_that_failed(answer):
    with pytest.raises(Unreachable):
        send("http://127.0.0.1:{port}/v1", answer=answer)

"""Chat requests to an OpenAI-compatible server: the openai client's address, headers and key, over aiohttp."""

from __future__ import annotations

from urllib.request import getproxies, proxy_bypass

from ..errors import ConfigError
from . import statuses
from .sending import Unreachable

KEPT_SECONDS = 4.0  # that an idle connection is used again: less than the 5 s after which uvicorn closes it


class OpenAITransport:
    """Sends chat requests, and has the openai client (`client`) for all else, such as the Batch API.

    The client's own `create` costs fifteen times the CPU of this, its `post` eight times: both build headers, URL and
    models anew for each request. Make it in a running event loop.

    Args:
        base_url (`str`, *optional*): Of the server; OpenAI's by default.
        key (`str`): Sent as the client sends it.
        connections (`int`): Most at once; fewer than requests in flight would queue inside of their deadlines.
        timeout (`float`, *optional*): Seconds for a connection.

    Raises:
        ConfigError: If the extra `generate` is not installed.
    """

    def __init__(self, base_url: str | None, key: str, connections: int, timeout: float | None):
        try:
            import aiohttp
            import httpx2
            import openai
            import yarl
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"asking a model needs {error.name}, which is not installed. Do: "
                'pip install "instruct-builders[generate]"'
            ) from error

        self.client = openai.AsyncOpenAI(api_key=key or "none", base_url=base_url, max_retries=0, timeout=timeout)
        self.errors = (openai.APIStatusError, openai.APIConnectionError)  # of the client, for the Batch API
        self.failed = aiohttp.ClientError
        # Before a byte of the request was out: no address, no connection, no TLS, a proxy that refuses.
        self.unsent = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
        self.url = yarl.URL(f"{str(self.client.base_url).rstrip('/')}/chat/completions")
        stated = {**self.client.default_headers, **self.client.auth_headers}
        headers = {name: value for name, value in stated.items() if isinstance(value, str)}
        if self.url.user is not None:  # user and password in the address are an authorization of their own
            headers.pop("Authorization", None)
        # As the client trusts: its certificates, and the proxy of the environment.
        secure = httpx2.create_ssl_context() if self.url.scheme == "https" else False
        proxies = {} if proxy_bypass(self.url.host or "") else getproxies()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=KEPT_SECONDS, ssl=secure),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            proxy=proxies.get(self.url.scheme) or proxies.get("all"),
            # The sender's deadline is over the whole request, so that a slow drip meets it too.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout),
        )

    async def __call__(self, body: bytes, name: str) -> statuses.Reply:
        try:
            async with self.session.post(self.url, data=body, allow_redirects=False) as response:
                return statuses.Reply(response.status, response.headers, await response.read())
        except self.failed as error:
            raise Unreachable(str(error) or type(error).__name__, sent=not isinstance(error, self.unsent)) from error

    async def aclose(self) -> None:
        await self.session.close()
        await self.client.close()

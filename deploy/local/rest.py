"""The few REST calls that sample data and demo make."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx2

from deploy.local.errors import LocalDeployError

TIMEOUT_SECONDS = 40
API = "/api/v1"

Json = dict[str, Any]


class RefusedError(LocalDeployError):
    """An answer of 4xx or 5xx: its problem document says why."""

    def __init__(self, request: str, status: int, problem: Json) -> None:
        self.status = status
        self.problem = problem
        reason = f"{problem.get('code', '')}: {problem.get('detail', '')}"
        super().__init__(f"{request} was answered with {status} {reason}")

    @property
    def code(self) -> str:
        """The problem's code, such as SKU_TAKEN; empty where the answer was no problem document."""
        return str(self.problem.get("code", ""))


class Rest:
    """A client of one gateway, as one user once `log_in` was called. Use it with `async with`.

    Args:
        url: the gateway's base URL, without /api/v1.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # No proxy of the environment: the gateway is here.
        self._client = httpx2.AsyncClient(base_url=self._url, timeout=TIMEOUT_SECONDS, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def log_in(self, email: str, password: str) -> None:
        """Make every later call as this user."""
        session = await self.post("/sessions", {"email": email, "password": password})
        self._client.headers["Authorization"] = f"Bearer {session['access_token']}"

    async def get(self, path: str, **query: str) -> Json:
        """Read `path` below /api/v1; raises RefusedError."""
        return await self._send("GET", path, params=query)

    async def items(self, path: str, **query: str) -> list[Json]:
        """Read the first page of a list."""
        return list((await self.get(path, **query))["items"])

    async def post(self, path: str, body: Json, *, key: str = "", wait_seconds: int | None = None) -> Json:
        """Post `body` with the Idempotency-Key `key`; `wait_seconds` is an order's; raises RefusedError."""
        headers = {"Idempotency-Key": key} if key else {}
        if wait_seconds is not None:
            headers["Prefer"] = f"wait={wait_seconds}"
        return await self._send("POST", path, json=body, headers=headers)

    async def _send(self, method: str, path: str, **arguments: Any) -> Json:
        try:
            answer = await self._client.request(method, f"{API}{path}", **arguments)
        except httpx2.ConnectError:
            raise LocalDeployError(
                f"nothing answers on {self._url}; start Sagacity with `make run`, or name its URL with --url"
            ) from None
        except httpx2.HTTPError as error:
            raise LocalDeployError(f"{method} {self._url}{API}{path} failed: {error!r}") from error
        try:
            body: Json = answer.json()
        except ValueError:
            raise LocalDeployError(f"what answers on {self._url} is not Sagacity") from None
        if answer.is_error:
            raise RefusedError(f"{method} {path}", answer.status_code, body)
        return body

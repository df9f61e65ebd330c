"""Calls of the gateway that are no load: before the run, and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gevent
import requests

# As in the locustfile.
if TYPE_CHECKING:
    from deploy.load.books import UNAUTHORIZED, Token
else:
    from books import UNAUTHORIZED, Token

API = "/api/v1"
REQUEST_SECONDS = 45.0
RETRY_SECONDS_MAX = 5.0
SETUP_ATTEMPTS_MAX = 30


class SetUpError(Exception):
    """The run cannot begin; the message says why."""


class Calls:
    """A client of the gateway for what is no load."""

    def __init__(self, host: str) -> None:
        self._url = host.rstrip("/") + API
        self._session = requests.Session()
        # No proxy of the environment: nothing is asked but the host that was named.
        self._session.trust_env = False

    def ask(
        self, method: str, path: str, *, token: str = "", key: str = "", body: Any = None
    ) -> requests.Response:
        """One call, again while the gateway is too busy; SetUpError where it stays so or is not there."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if key:
            headers["Idempotency-Key"] = key
        for _ in range(SETUP_ATTEMPTS_MAX):
            try:
                answer = self._session.request(
                    method, self._url + path, headers=headers, json=body, timeout=REQUEST_SECONDS
                )
            except requests.RequestException as error:
                raise SetUpError(f"{method} {path} got no answer: {error!r}") from None
            if "Retry-After" not in answer.headers:
                return answer
            gevent.sleep(pause(answer.headers["Retry-After"]))
        raise SetUpError(f"{method} {path} was refused {SETUP_ATTEMPTS_MAX} times: too busy")

    def ask_for(self, token: Token, method: str, path: str, **more: Any) -> requests.Response:
        """One call of a customer, who logs in again where the token is refused, once; else like `ask`."""
        used = token.value
        answer = self.ask(method, path, token=used, **more)
        if answer.status_code != UNAUTHORIZED:
            return answer
        token.renew(used)
        return self.ask(method, path, token=token.value, **more)

    def done(self, method: str, path: str, **more: Any) -> Any:
        """The body of an answer that is none of refusal; SetUpError otherwise."""
        answer = self.ask(method, path, **more)
        if not answer.ok:
            raise SetUpError(f"{method} {path} was answered with {answer.status_code}: {answer.text[:200]}")
        return answer.json()


def pause(retry_after: str | None) -> float:
    """How long to wait before asking again, in seconds."""
    asked_for = float(retry_after) if retry_after and retry_after.isdigit() else 1.0
    return min(RETRY_SECONDS_MAX, asked_for)

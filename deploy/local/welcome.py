"""What `make run` prints once everything is up: where it is, who may log in, and lines to paste."""

from __future__ import annotations

import json
from pathlib import Path

from deploy.local.programs import ADMIN_EMAIL, CUSTOMER_EMAIL, GATEWAY
from deploy.local.sample_data import ADDRESS
from deploy.local.suite import Suite

LOGIN = {"email": "grace@example.com", "password": "correct horse battery"}
# The answer's field that the next line needs; Python is there where this is read.
PICK = """pick() { python3 -c 'import json,sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }"""
TOKEN_BODY = json.dumps({"provider_token": "tok_success"})
PREFER = '-H "Prefer: wait=10"'
AS_USER = '-H "Authorization: Bearer $TOKEN"'


def curl_lines(url: str) -> list[str]:
    """Return shell lines, each to be pasted by itself: from registering to looking at one's order."""
    order = (
        '{"items":[{"sku":"NOTE-A5-DOT","quantity":2}],"currency":"EUR",'
        '"address_id":"\'$ADDRESS\'","payment_method_id":"\'$METHOD\'"}'
    )
    return [
        f"API={url}/api/v1; {PICK}",
        _post("users", json.dumps({**LOGIN, "display_name": "Grace"}), keyed=True),
        f"TOKEN=$({_post('sessions', json.dumps(LOGIN))} | pick access_token)",
        'curl -s "$API/products?page_size=3"',
        f"ADDRESS=$({_post(f'users/me/addresses {AS_USER}', json.dumps(ADDRESS), keyed=True)} | pick id)",
        f"METHOD=$({_post(f'users/me/payment-methods {AS_USER}', TOKEN_BODY, keyed=True)} | pick id)",
        f"ORDER=$({_post(f'orders {AS_USER} {PREFER}', order, keyed=True)} | pick id)",
        f"curl -s $API/orders/$ORDER {AS_USER}",
    ]


def _post(path: str, body: str, *, keyed: bool = False) -> str:
    key = ' -H "Idempotency-Key: $(date +%s%N)"' if keyed else ""
    return f"curl -s $API/{path} -H 'Content-Type: application/json'{key} -d '{body}'"


def welcome(suite: Suite) -> str:
    """Return the whole text for people."""
    url = suite.gateway_url
    lines = "\n".join(curl_lines(url))
    return f"""
Sagacity runs on {url}
documentation    {url}/docs
logins           {ADMIN_EMAIL}     {suite.password("admin")}
                 {CUSTOMER_EMAIL}  {suite.password("customer")}
data and logs    {suite.data_dir}
three orders     {_demo(suite)}, in another terminal

To paste, line by line:

{lines}

Ctrl-C stops everything in order; a second one at once.
"""


def _demo(suite: Suite) -> str:
    """The command that finds this suite: with arguments where it is not where the demo looks by itself."""
    arguments = []
    if suite.gateway_url != f"http://127.0.0.1:{GATEWAY.default_port}":
        arguments.append(f"--url {suite.gateway_url}")
    if suite.data_dir != Path(".sagacity").absolute():
        arguments.append(f"--data-dir {suite.data_dir}")
    return f'make demo ARGS="{" ".join(arguments)}"' if arguments else "make demo"

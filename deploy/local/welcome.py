"""What `make run` prints once everything is up: where it is, who may log in, and lines to paste."""

from __future__ import annotations

from deploy.local.programs import ADMIN_EMAIL, CUSTOMER_EMAIL
from deploy.local.suite import Suite

# One line each, so that each can be pasted by itself; $TOKEN and its like are set by the lines before.
LINES = """\
URL={url}/api/v1
curl -s $URL/users -H 'Content-Type: application/json' -H "Idempotency-Key: $(date +%s%N)" \
-d '{{"email":"ada@example.com","password":"correct horse battery","display_name":"Ada"}}'
TOKEN=$(curl -s $URL/sessions -H 'Content-Type: application/json' \
-d '{{"email":"ada@example.com","password":"correct horse battery"}}' | {pick}'["access_token"])')
curl -s "$URL/products?page_size=5"
ADDRESS=$(curl -s $URL/users/me/addresses -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \
-H "Idempotency-Key: $(date +%s%N)" -d '{{"recipient":"Ada","line1":"Hauptstrasse 1","city":"Berlin",\
"postal_code":"10827","country_code":"DE"}}' | {pick}'["id"])')
METHOD=$(curl -s $URL/users/me/payment-methods -H "Authorization: Bearer $TOKEN" \
-H 'Content-Type: application/json' -H "Idempotency-Key: $(date +%s%N)" \
-d '{{"provider_token":"tok_success"}}' | {pick}'["id"])')
ORDER=$(curl -s $URL/orders -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \
-H "Idempotency-Key: $(date +%s%N)" -H 'Prefer: wait=10' \
-d '{{"items":[{{"sku":"MUG-STONE-35","quantity":2}}],"currency":"EUR",\
"address_id":"'$ADDRESS'","payment_method_id":"'$METHOD'"}}' | {pick}'["id"])')
curl -s $URL/orders/$ORDER -H "Authorization: Bearer $TOKEN"
"""
PICK = "python3 -c 'import json,sys; print(json.load(sys.stdin)"


def curl_lines(url: str) -> str:
    """Return shell lines that register, log in, list products, add address and payment method, order and look."""
    # The single-quoted program goes on in the line that uses it.
    return LINES.format(url=url, pick=PICK).replace(PICK + "'", PICK)


def welcome(suite: Suite) -> str:
    """Return the whole text for people."""
    url = suite.gateway_url
    return f"""
Sagacity runs on {url}        documentation: {url}/docs
logins: {ADMIN_EMAIL}  {suite.password("admin")}
        {CUSTOMER_EMAIL}  {suite.password("customer")}
data and logs: {suite.data_dir}        three orders and their sagas: make demo

{curl_lines(url)}
Ctrl-C stops everything in order; a second one at once.
"""

"""What payment providers tell us by themselves; a signature over the raw body takes the place of a token."""

from typing import Annotated, Any, Final

from fastapi import Path, Response

from gateway.auth import Access
from gateway.context import Ctx
from gateway.openapi import headers_of, problems
from gateway.problems import FieldError, malformed
from gateway.routing import API, allow, read_body, router
from sagacity.payments.v1 import payments_pb2

SIGNATURE_HEADER: Final = "Webhook-Signature"
MAX_SIGNATURE_CHARACTERS: Final = 1000
# Payments asks the provider in it. A provider that had no answer in that time sends its webhook again.
WEBHOOK_SECONDS: Final = 8.0

ROUTER = router(f"{API}/provider-webhooks", tags=["provider webhooks"])

_SIGNATURE: Final[dict[str, Any]] = {
    "name": SIGNATURE_HEADER,
    "in": "header",
    "required": True,
    "description": "`t=<seconds since 1970>,v1=<HMAC-SHA256 of '<t>.<body>' in hexadecimal>`.",
    "schema": {"type": "string"},
}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "As the provider signed it, byte by byte.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


@ROUTER.post(
    "/{provider}",
    status_code=204,
    response_class=Response,
    openapi_extra={**headers_of(_SIGNATURE), **_BODY},
    responses=problems(
        {
            400: "`BAD_SIGNATURE`: not signed by the provider, or not of late; `BAD_WEBHOOK`: not its format",
            404: "Nothing is taken from a provider of that name",
            409: "What it says cannot have happened; nothing is changed, and somebody is told",
        }
    ),
)
@allow(Access.ANYONE)
async def receive(
    provider: Annotated[str, Path(pattern=r"^[a-z][a-z0-9-]{0,31}$")], context: Ctx
) -> Response:
    """Takes a webhook of a payment provider: a refund or a void that was made there.

    204 says that all there is to record is committed, also where it was already; after any other answer the
    provider sends it again.
    """
    signatures = context.request.headers.getlist(SIGNATURE_HEADER)
    if len(signatures) != 1 or len(signatures[0]) > MAX_SIGNATURE_CHARACTERS:
        raise malformed(
            "The webhook is not signed.",
            FieldError(
                SIGNATURE_HEADER, f"must be there once, with at most {MAX_SIGNATURE_CHARACTERS} characters"
            ),
        )
    request = payments_pb2.HandleProviderWebhookRequest(
        provider=provider, body=await read_body(context.request), signature=signatures[0]
    )
    payments = context.backends.payments
    await context.call(
        payments, payments.stub.HandleProviderWebhook, request, timeout_seconds=WEBHOOK_SECONDS
    )
    return Response(status_code=204)

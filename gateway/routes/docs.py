"""The API's documentation page.

Its scripts are shipped with us: nothing is loaded from anybody else's server.
"""

from importlib.resources import files
from typing import Final

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.responses import FileResponse, HTMLResponse, Response

from gateway.auth import Access
from gateway.problems import ProblemError, from_status
from gateway.routing import allow, router

ROUTER = router()

_ASSETS: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_FOLDER: Final = files("fastapi_offline") / "static"
_DAY: Final = {"Cache-Control": "public, max-age=86400"}
_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sagacity API</title>
<link rel="icon" href="/docs/assets/favicon.png">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START: Final = """\
SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true});
"""
_PAGE_POLICY: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; font-src 'self'; frame-ancestors 'none'; base-uri 'none'",
}


@ROUTER.get("/openapi.json", include_in_schema=False)
@allow(Access.ANYONE)
async def openapi(request: Request) -> Response:
    """Serves the OpenAPI document."""
    return JSONResponse(request.app.openapi(), headers={"Cache-Control": "no-cache"})


@ROUTER.get("/docs", include_in_schema=False)
@allow(Access.ANYONE)
async def page() -> Response:
    """Serves the page."""
    return HTMLResponse(_PAGE, headers=_PAGE_POLICY)


@ROUTER.get("/docs/start.js", include_in_schema=False)
@allow(Access.ANYONE)
async def start() -> Response:
    """Serves the script that starts the page; a file of its own, so that the page needs no inline script."""
    return Response(_START, media_type="text/javascript")


@ROUTER.get("/docs/assets/{name}", include_in_schema=False)
@allow(Access.ANYONE)
async def asset(name: str) -> Response:
    """Serves one of the page's files."""
    if name not in _ASSETS:
        raise ProblemError(from_status(404))
    return FileResponse(str(_FOLDER / name), media_type=_ASSETS[name], headers=_DAY)

"""Asks a process how it is, for the health checks of containers.

`python -m chassis.probe grpc 127.0.0.1:50051` answers with one sentence and an exit code: 0 well, 1 not well
or no answer in time, 2 wrong usage. It is started every few seconds, so it imports little.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from urllib.parse import SplitResult, urlsplit

import grpc
from grpc_health.v1 import health_pb2

CHECK = "/grpc.health.v1.Health/Check"
TIMEOUT_SECONDS = 3.0
MAX_TIMEOUT_SECONDS = 60.0
MAX_LINE_BYTES = 4096

_EPILOG = """\
grpc asks the standard health service: "" whether the process lives, "readiness" whether its database answers.
http is content with any status from 200 to 299.
"""


class NotWellError(Exception):
    """The process is not well, or did not answer in time; the message is a sentence."""


def main(arguments: list[str] | None = None) -> int:
    """Ask once, print the answer, and return the exit code: 0 or 1; SystemExit(2) for wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        if options.protocol == "grpc":
            said = ask_grpc(options.address, options.service, options.timeout_seconds)
        else:
            said = ask_http(options.url, options.timeout_seconds)
    except NotWellError as error:
        said, code = str(error), 1
    else:
        code = 0
    sys.stdout.write(f"{said}\n")
    return code


def ask_grpc(address: str, service: str, timeout_seconds: float) -> str:
    """Ask a gRPC server's health service and return a sentence.

    Raises:
        NotWellError: it is not SERVING, does not know the service, or gave no answer in `timeout_seconds`.
    """
    what = f"{address} {service}".rstrip()
    # A proxy in the environment is for calls to the world, not for this container's own process.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        check = channel.unary_unary(
            CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            reply = check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_seconds)
        except grpc.RpcError as error:
            raise NotWellError(f"{what} is not well: {error.code().name}") from None
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise NotWellError(f"{what} is not well: {status}")
    return f"{what} is {status}"


def ask_http(url: SplitResult, timeout_seconds: float) -> str:
    """Make a GET request and return a sentence.

    Raises:
        NotWellError: the status is not 2xx, or there was none within `timeout_seconds`.
    """
    what = url.geturl()
    try:
        status = asyncio.run(asyncio.wait_for(_status(url), timeout_seconds))
    except TimeoutError:
        raise NotWellError(f"{what} did not answer within {timeout_seconds:g} s") from None
    except (OSError, ValueError, IndexError) as error:
        raise NotWellError(f"{what} is not well: {type(error).__name__}") from None
    if not 200 <= status < 300:
        raise NotWellError(f"{what} is not well: HTTP {status}")
    return f"{what} is well: HTTP {status}"


async def _status(url: SplitResult) -> int:
    assert url.hostname, "checked with the arguments"
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    reader, writer = await asyncio.open_connection(url.hostname, url.port or 80, limit=MAX_LINE_BYTES)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n\r\n".encode("ascii")
        )
        line = await reader.readline()
    finally:
        writer.close()
    # HTTP/1.1 200 OK
    return int(line.split()[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chassis.probe",
        description="Ask a process how it is. Exit codes: 0 well, 1 not well or no answer, 2 wrong usage.",
        epilog=_EPILOG,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--timeout-seconds", type=_timeout, default=TIMEOUT_SECONDS, help="default: 3")
    protocols = parser.add_subparsers(dest="protocol", required=True)
    over_grpc = protocols.add_parser("grpc", parents=[common], help="ask grpc.health.v1.Health")
    over_grpc.add_argument("address", type=_address, help="host:port")
    over_grpc.add_argument("service", nargs="?", default="", help='such as "readiness"; default: the process')
    over_http = protocols.add_parser("http", parents=[common], help="make a GET request")
    over_http.add_argument("url", type=_url, help="http://host:port/path")
    return parser


def _timeout(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {MAX_TIMEOUT_SECONDS:g}")
    return seconds


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdigit()):
        raise argparse.ArgumentTypeError("must be host:port")
    return text


def _url(text: str) -> SplitResult:
    # ValueErrors, which urlsplit and its port raise, are wrong usage to argparse too.
    url = urlsplit(text)
    usable = url.scheme == "http" and url.hostname and url.port != 0
    if not (usable and text.isascii() and text.isprintable()) or " " in text:
        raise argparse.ArgumentTypeError("must be http://host:port/path")
    return url


if __name__ == "__main__":
    sys.exit(main())

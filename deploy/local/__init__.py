"""The whole suite on one machine without Docker (`python -m deploy.local`), and parts the tests use."""

import os

# Before anything imports gRPC: its fork handlers would run in every child between fork and exec, where they
# were seen to abort it ("epoll_wait error: Bad file descriptor"). Our children exec at once and need none.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # noqa: TID251 - gRPC reads it nowhere else

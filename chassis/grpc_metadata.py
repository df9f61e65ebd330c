"""What both ends of a call agree on beside the protos: names of metadata, and limits."""

from typing import Final

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
# gRPC's 8 kB would turn a refusal with a field or SKU per line of a long order into another error.
MAX_METADATA_BYTES: Final = 64 * 1024

USER_KEY: Final = "x-sagacity-user"
ROLE_KEY: Final = "x-sagacity-role"
REQUEST_ID_KEY: Final = "x-request-id"

"""The events as the protos declare them: their messages, their comments, and all that they are made of.

An event is a message of a context's `events.proto` whose comment says what its key is.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import grpc_tools
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent

_SCALARS: dict[int, str] = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()
}
_KEY = re.compile(r"\s*Key: (?P<key>[^.]+)\.\s*$")


@dataclass(frozen=True, slots=True)
class Event:
    """A fact: its message, what its key is, and when it is published."""

    message: Descriptor
    key: str
    when: str

    @property
    def topic(self) -> str:
        """The topic is called as the package."""
        return str(self.message.file.package)


class EventProtos:
    """The protos of a folder, compiled afresh: the stubs of protos/gen may be stale."""

    def __init__(self, protos: Path = PROTOS) -> None:
        self._files = _compiled(protos)
        self._pool = descriptor_pool.DescriptorPool()
        for file in self._files.file:
            self._pool.Add(file)

    def events(self) -> Iterator[Event]:
        """The events of all contexts, each context's in the order of its file."""
        for file in self._files.file:
            if not file.name.endswith("/events.proto"):
                continue
            for declared in file.message_type:
                message = self._pool.FindMessageTypeByName(f"{file.package}.{declared.name}")
                comment = self.comment(message)
                if found := _KEY.search(comment):
                    yield Event(message, found["key"], comment[: found.start()])

    def parts(self) -> list[Descriptor | EnumDescriptor]:
        """What the events are made of, directly or not, by name; Google's own types are not listed."""
        found: dict[str, Descriptor | EnumDescriptor] = {}
        waiting = [event.message for event in self.events()]
        while waiting:
            for field in waiting.pop().fields:
                part = field.message_type or field.enum_type
                if part is None or is_well_known(part) or part.full_name in found:
                    continue
                found[part.full_name] = part
                if isinstance(part, Descriptor):
                    waiting.append(part)
        return [found[name] for name in sorted(found)]

    def comment(self, declared: Descriptor | EnumDescriptor) -> str:
        """What is written above a message or an enum, in one line."""
        return self._comments[declared.full_name]

    def member_comment(self, declared: Descriptor | EnumDescriptor, member: str) -> str:
        """What is written above a field or a value, in one line."""
        return self._comments[f"{declared.full_name}.{member}"]

    @cached_property
    def _comments(self) -> dict[str, str]:
        return {name: text for file in self._files.file for name, text in _comments(file)}


def is_well_known(part: Descriptor | EnumDescriptor) -> bool:
    """Whether it is a type of Google's, such as a timestamp."""
    return part.full_name.startswith("google.protobuf.")


def part_of(field: FieldDescriptor) -> Descriptor | None:
    """Returns the message that a field holds; None: it has one value, a well-known type's at most."""
    part = field.message_type
    return None if part is None or is_well_known(part) else part


def type_name(field: FieldDescriptor) -> str:
    """The type as the proto names it, without the package of our own types."""
    kind = field.message_type or field.enum_type
    named = kind and (kind.full_name if is_well_known(kind) else kind.name)
    name = named or _SCALARS[field.type]
    return f"repeated {name}" if field.is_repeated else name


def _compiled(protos: Path) -> descriptor_pb2.FileDescriptorSet:
    sources = sorted(map(str, protos.glob("sagacity/*/v1/events.proto")))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "image.binpb"
        options = ["--include_imports", "--include_source_info", f"--descriptor_set_out={out}"]
        if protoc.main(["protoc", f"-I{protos}", f"-I{well_known}", *options, *sources]) != 0:
            raise SystemExit("protoc failed; what it said stands above")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def _comments(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for place in file.source_code_info.location:
        name = _declared_at(file, tuple(place.path))
        if name:
            yield f"{file.package}.{name}", " ".join(place.leading_comments.split())


def _declared_at(file: descriptor_pb2.FileDescriptorProto, path: tuple[int, ...]) -> str:
    # The numbers of the fields of descriptor.proto: of a file 4 message_type, 5 enum_type; in those 2.
    match path:
        case (4, message):
            return file.message_type[message].name
        case (4, message, 2, field):
            return f"{file.message_type[message].name}.{file.message_type[message].field[field].name}"
        case (5, enum):
            return file.enum_type[enum].name
        case (5, enum, 2, value):
            return f"{file.enum_type[enum].name}.{file.enum_type[enum].value[value].name}"
        case _:
            return ""

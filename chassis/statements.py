"""SQL that is compiled once, at import; SQLAlchemy Core only writes it, psycopg runs it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from sqlalchemy.sql.expression import ClauseElement

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL that is ready to run: its name, its text, its constants, and which parameters are jsonb."""

    name: str
    sql: str
    constants: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    json_names: Collection[str] = ()

    def bind(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the parameters to send: those given, the statement's own, jsonb ones wrapped."""
        bound = {**self.constants, **params}
        for name in self.json_names:
            if bound.get(name) is not None and not isinstance(bound[name], Jsonb):
                bound[name] = Jsonb(bound[name])
        return bound


def statement(name: str, core: "str | ClauseElement") -> Statement:
    """Compiles a statement once, at import.

    Args:
        name: What the statement does, for logs and metrics.
        core: A SQLAlchemy Core statement with `bindparam`s, or SQL with `%(name)s` parameters, where a
            literal percent sign is written `%%`.

    A `dict` is always sent as jsonb. A `list` is sent as an array in SQL text; for a jsonb list wrap it in
    `psycopg.types.json.Jsonb`. In a Core statement what goes to a JSON column is wrapped already. An `int` is
    always sent as bigint, so that a statement has one plan whatever the numbers; cast it where a function
    wants less.

    Raises:
        ValueError: The Core statement needs work at each run: `in_()` (write `= ANY`), or a column with a
            Python-side `default=` or `onupdate=` (write `server_default=` or give the value).
    """
    return Statement(name, core) if isinstance(core, str) else _compiled(name, core)


def _compiled(name: str, core: "ClauseElement") -> Statement:
    # Imported here: a process whose statements are all SQL text does without SQLAlchemy's 18 MiB.
    from sqlalchemy import JSON  # noqa: PLC0415
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg  # noqa: PLC0415
    from sqlalchemy.sql.compiler import SQLCompiler  # noqa: PLC0415

    compiled = core.compile(
        dialect=PGDialect_psycopg()  # type: ignore[no-untyped-call]
    )
    if not isinstance(compiled, SQLCompiler):
        raise ValueError(f"{name}: not a query")  # noqa: TRY004  # the same class of mistake as the ones below
    if compiled.post_compile_params:
        raise ValueError(f"{name}: in_() is expanded at each run; write = ANY(...)")
    if compiled.insert_prefetch or compiled.update_prefetch:
        raise ValueError(f"{name}: a column has a Python-side default; write server_default")
    binds = {key: value for key, value in compiled.binds.items() if key in compiled.params}
    return Statement(
        name,
        str(compiled),
        {
            key: value
            for key, value in compiled.params.items()
            if not binds[key].required and value is not None
        },
        frozenset(key for key, value in binds.items() if isinstance(value.type, JSON)),
    )

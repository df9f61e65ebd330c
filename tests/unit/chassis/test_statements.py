import pytest
import sqlalchemy as sa
from psycopg.types.json import Jsonb
from sqlalchemy.dialects.postgresql import JSONB

from chassis.postgres import statement

THINGS = sa.Table(
    "things",
    sa.MetaData(),
    sa.Column("id", sa.Uuid),
    sa.Column("document", JSONB),
    sa.Column("count", sa.BigInteger),
)


def test_a_core_statement_is_compiled_to_named_parameters() -> None:
    compiled = statement("get", sa.select(THINGS.c.count).where(THINGS.c.id == sa.bindparam("id")))
    assert "%(id)s" in compiled.sql
    assert compiled.bind({"id": 1}) == {"id": 1}


def test_a_core_statement_keeps_its_constants() -> None:
    compiled = statement("list", sa.select(THINGS.c.id).where(THINGS.c.count == 7).limit(3))
    assert sorted(compiled.bind({}).values()) == [3, 7]


def test_what_goes_to_a_json_column_is_sent_as_jsonb_even_a_list() -> None:
    compiled = statement("add", sa.insert(THINGS).values(document=sa.bindparam("document")))
    bound = compiled.bind({"document": [1, 2]})["document"]
    assert isinstance(bound, Jsonb)
    assert bound.obj == [1, 2]
    assert compiled.bind({"document": None})["document"] is None


def test_an_in_list_is_refused_at_compilation() -> None:
    with pytest.raises(ValueError, match="ANY"):
        statement("list", sa.select(THINGS).where(THINGS.c.count.in_([1, 2])))


def test_a_python_side_default_is_refused_at_compilation() -> None:
    table = sa.Table("t", sa.MetaData(), sa.Column("a", sa.Text), sa.Column("n", sa.BigInteger, default=5))
    with pytest.raises(ValueError, match="server_default"):
        statement("add", sa.insert(table).values(a=sa.bindparam("a")))

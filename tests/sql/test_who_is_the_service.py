"""Whoever holds service_role's rights by inheritance is the service; nobody else is."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from tests.support.database import Database


@pytest.fixture
def bridge_role(db: Database) -> Iterator[str]:
    """A role of the bridge's own; roles outlive the test's database, so it is dropped again."""
    role = f"bridge_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(db.url("supabase_admin"), autocommit=True) as admin:
        admin.execute(f"create role {role} login inherit in role service_role")
        admin.execute(f"grant {role} to postgres")
        yield role
        admin.execute(f"drop role {role}")


def is_service(db: Database, login: str, role: str | None = None) -> bool:
    with psycopg.connect(db.url(login)) as connection:
        if role:
            connection.execute(f"set role {role}")
        row = connection.execute("select payments.is_service()").fetchone()
    return row == (True,)


def test_the_dba_is_the_service_whichever_role_they_take(db: Database, bridge_role: str) -> None:
    assert is_service(db, "postgres")
    assert is_service(db, "postgres", "postgres")
    assert is_service(db, "postgres", "service_role")
    assert is_service(db, "postgres", bridge_role)
    assert is_service(db, bridge_role)


def test_the_api_is_the_service_only_as_service_role(db: Database) -> None:
    assert is_service(db, "authenticator", "service_role")
    assert not is_service(db, "authenticator", "authenticated")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        is_service(db, "authenticator")

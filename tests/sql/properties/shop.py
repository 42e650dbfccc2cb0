"""The real side of the property test: one database, its callers on open connections, and the hand of its DBA."""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from bridge.local.postgres import SUPERUSER
from tests.sql.answers import answer_or_reason
from tests.sql.properties.catalogue import COUPONS, PRODUCTS
from tests.support.database import Database, Row, call

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Shop"]

# Ids as if every session were two years old, and so old enough for cleanup as soon as its other times are.
_OLD_IDS = """
    create function payments.new_id_of_today(p_user_id uuid) returns uuid language plpgsql as $$ {body} $$;
    create or replace function payments.new_time_ordered_id(p_user_id uuid)
    returns uuid language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
    declare
        v_id text := payments.new_id_of_today(p_user_id);
        v_hex text := replace(left(v_id, 13), '-', '');
        v_milliseconds bigint := ('x' || v_hex)::bit(48)::bigint - 2 * 365 * 86400000::bigint;
    begin
        return overlay(lpad(to_hex(v_milliseconds), 12, '0') placing '-' from 9 for 0) || right(v_id, 23);
    end $$;
"""

_BROKEN_HANDLERS = """
    create function payments.fail_to_fulfil(p_session public.payment_checkout_sessions)
    returns jsonb language plpgsql as $$
    begin raise exception 'The shelf is empty.' using errcode = 'PT409', detail = 'shelf_empty'; end $$;
    create function payments.fail_to_reverse(p_session public.payment_checkout_sessions, p_share numeric)
    returns jsonb language plpgsql as $$
    begin raise exception 'It cannot be taken back.'; end $$;
"""

# What the model speaks of, in one look. Money first.
_LOOK = """
    select
        (select coalesce(jsonb_object_agg(s.id, jsonb_build_object(
            'status', s.status, 'given', s.fulfilment_status, 'granted', s.fulfilment is not null,
            'review', coalesce(to_jsonb(string_to_array(s.review_reason, ', ')), '[]'),
            'provider', s.provider, 'amount', s.amount, 'refunded', s.refunded_amount,
            'page', s.current_attempt, 'pages', s.attempts,
            'minutes', round(extract(epoch from s.expires_at - now()) / 60)
        )), '{}') from public.payment_checkout_sessions as s) as sessions,
        (select coalesce(jsonb_agg(jsonb_build_array(
            c.provider, c.provider_payment_id, c.session_id, c.amount, c.currency, c.disposition
        )), '[]') from payments.captures as c) as captures,
        (select coalesce(jsonb_agg(jsonb_build_array(
            r.provider, r.provider_refund_id, r.session_id, r.amount, r.status
        )), '[]') from public.payment_refunds as r) as refunds,
        (select coalesce(jsonb_agg(jsonb_build_array(d.session_id, d.amount)), '[]') from (
            select i.session_id, i.amount from public.payment_invoices as i
            union all
            select (u.document ->> 'session_id')::uuid, (u.document ->> 'amount')::bigint
            from payments.unnumbered_invoices as u
        ) as d) as documents,
        (select coalesce(jsonb_agg(jsonb_build_array(
            e.user_id, e.amount, e.reason, split_part(e.source, ':', 1)
        )), '[]') from public.payment_credit_entries as e) as entries,
        (select coalesce(jsonb_object_agg(b.user_id, b.balance), '{}')
            from public.payment_credit_balances as b) as balances,
        (select coalesce(jsonb_object_agg(r.session_id, r.status), '{}')
            from payments.coupon_redemptions as r
            inner join public.payment_checkout_sessions as s on r.session_id = s.id) as redemptions,
        (select coalesce(jsonb_agg(jsonb_build_array(m.group_id, m.user_id, m.position, m.status, m.session_id)), '[]')
            from public.payment_group_members as m) as members,
        (select coalesce(jsonb_object_agg(g.id, g.status), '{}') from public.payment_groups as g) as groups,
        (select coalesce(jsonb_agg(jsonb_build_array(c.group_id, c.user_id, c.cycle, c.status, c.session_id)), '[]')
            from public.payment_contributions as c) as contributions,
        (select coalesce(jsonb_agg(jsonb_build_array(p.user_id, p.session_id)), '[]')
            from payments.subscription_periods as p where p.cut is null) as periods,
        (select coalesce(jsonb_agg(jsonb_build_array(n.session_id, n.kind, n.occurrence)), '[]')
            from payments.notifications as n where n.kind <> 'review_alert') as letters
"""

# Guarantees that need no model.
_BROKEN = """
    -- the time that a subscriber still has is what is left of the periods that were paid and kept
    select
        'subscription_lasts_as_long_as_it_was_paid' as invariant, s.user_id::text as subject, s.ends_at::text as detail
    from public.payment_subscriptions as s
    where abs(extract(epoch from greatest(s.ends_at - now(), '0') - (
        select coalesce(sum(greatest(p.ends_at - greatest(p.starts_at, now()), '0')), '0')
        from payments.subscription_periods as p
        where p.user_id = s.user_id and p.tier = s.tier and p.cut is null
    ))) > 60
    union all
    select 'an_unpaid_page_is_asked_about', s.id::text, a.number::text
    from public.payment_checkout_sessions as s
    inner join payments.attempts as a on s.current_attempt = a.number
    where s.status in ('pending', 'processing')
        and a.status in ('open', 'processing') and a.provider_session_id is not null
        and a.reconcile_at is null and a.expires_at > now() + interval '2 minutes' and s.expires_at > now()
"""

_TIMES = """
    select a.attrelid::regclass::text as name,
        string_agg(format('%1$I = %1$I - interval ''{minutes} minutes''', a.attname), ', ') as changes
    from pg_catalog.pg_attribute as a
    inner join pg_catalog.pg_class as c on a.attrelid = c.oid
    where c.relkind = 'r' and c.relnamespace in ('public'::regnamespace, 'payments'::regnamespace)
        and a.atttypid = 'timestamptz'::regtype and a.attnum > 0 and not a.attisdropped
        and c.relname not in ('payment_products', 'coupons', 'payment_invoices')
    group by 1
"""

_CATALOGUE_TABLES = (
    "payments.settings", "payments.fulfilment_handlers", "payment_products", "payment_prices",
    "payments.coupons", "payments.coupon_currencies",
)  # fmt: skip


class Shop:
    """Every call is a transaction of its own through the role that calls; statements stay prepared."""

    def __init__(self, database: Database) -> None:
        self._callers = psycopg.connect(database.url("authenticator"), row_factory=dict_row)
        self._dba = psycopg.connect(database.url(SUPERUSER), row_factory=dict_row, autocommit=True)
        self._rival = psycopg.connect(database.url(SUPERUSER))
        self._dba.execute("set session_replication_role = replica")
        (body,) = self.rows("select prosrc from pg_proc where proname = 'new_time_ordered_id'")
        self._dba.execute(_OLD_IDS.format(body=body["prosrc"]).encode())
        self._dba.execute(_BROKEN_HANDLERS)
        self._times = self.rows(_TIMES)
        tables = self.rows(
            "select c.oid::regclass::text as name from pg_class as c"
            " where relkind = 'r' and relnamespace in ('public'::regnamespace, 'payments'::regnamespace)"
        )
        self._history = [row["name"] for row in tables if row["name"] not in _CATALOGUE_TABLES] + ["auth.users"]
        self._open_for_business()

    def close(self) -> None:
        for connection in (self._callers, self._dba, self._rival):
            connection.close()

    def _open_for_business(self) -> None:
        # nobody here shops slowly; two tries, so that letters die within a few steps
        self._dba.execute(
            "update payments.settings set create_limit = null, verify_limit = null, notification_tries = 2,"
            " session_retention = '90 years', webhook_retention = '90 years', audit_retention = '90 years',"
            " idempotency_retention = '90 years'"
        )
        for product in PRODUCTS.values():
            self._dba.execute(
                "insert into public.payment_products (id, kind, name, terms) values (%s, %s, %s, %s)",
                [product.id, product.kind, product.id, json.dumps(product.terms)],
            )
            for currency, amount in product.prices.items():
                self._dba.execute(
                    "insert into public.payment_prices values (%s, %s, %s, %s)",
                    [product.id, currency, amount, currency == "USD"],
                )
        for coupon in COUPONS.values():
            self._dba.execute(
                "insert into payments.coupons (id, percent_off, max_redemptions, max_redemptions_per_user)"
                " values (%s, %s, %s, %s)",
                [coupon.id, coupon.percent_off, coupon.places, coupon.places_per_user],
            )
            for currency, amount in coupon.amounts_off.items():
                self._dba.execute(
                    "insert into payments.coupon_currencies (coupon_id, currency, amount_off) values (%s, %s, %s)",
                    [coupon.id, currency, amount],
                )

    def start_over(self, users: list[uuid.UUID]) -> None:
        """Forget all that happened; the catalogue goes back to what it was."""
        with self._dba.transaction():
            for table in self._history:
                self._dba.execute(f"delete from {table}".encode())
            self._dba.execute("update payments.coupons set places_taken = 0")
            self._dba.execute("update payments.settings set coupon_returns_on_refund = false")
        for product in PRODUCTS.values():
            self.set_terms(product.id, product.terms)
            self.break_handlers(product.kind, fulfil=False, reverse=False)
            for currency, amount in product.prices.items():
                self.set_price(product.id, currency, amount)
        for user in users:
            self.add_user(user)

    def ask(self, caller: uuid.UUID | None, function: str, **arguments: Any) -> Any:
        """The answer to a user (or the service, without one), or the reason why the call was refused."""
        return answer_or_reason(self._ask, caller, function, **arguments)

    def _ask(self, caller: uuid.UUID | None, function: str, **arguments: Any) -> Any:
        role = "authenticated" if caller else "service_role"
        with self._callers.transaction():
            self._callers.execute(
                "select set_config('search_path', 'public, extensions', true), set_config('role', %s, true),"
                " set_config('request.jwt.claims', %s, true)",
                [role, json.dumps({"role": role, "sub": str(caller) if caller else None})],
            )
            return call(self._callers, function, **arguments)

    def rows(self, query: str, *parameters: Any) -> list[Row]:
        return self._dba.execute(query.encode(), parameters or None).fetchall()

    def look(self) -> Row:
        (row,) = self.rows(_LOOK)
        return row

    def broken(self) -> list[Row]:
        return self.rows(_BROKEN)

    def functions(self) -> set[str]:
        """All that the engine offers."""
        rows = self.rows("select proname from pg_proc where pronamespace = 'public'::regnamespace and prokind = 'f'")
        return {row["proname"] for row in rows}

    def let_time_pass(self, minutes: int) -> None:
        """There is no clock to set: everything that has happened happened earlier."""
        with self._dba.transaction():
            for table in self._times:
                changes = table["changes"].replace("{minutes}", str(minutes))
                self._dba.execute(f"update {table['name']} set {changes}".encode())

    def add_user(self, user: uuid.UUID) -> None:
        self._dba.execute("insert into auth.users (id, email) values (%s, %s)", [user, f"{user}@example.test"])

    def delete_user(self, user: uuid.UUID) -> None:
        """As the platform does, with the cascades."""
        with self._rival.transaction():
            self._rival.execute("delete from auth.users where id = %s", [user])

    def set_price(self, plan: str, currency: str, amount: int) -> None:
        self._dba.execute(
            "update public.payment_prices set amount = %s where product_id = %s and currency = %s",
            [amount, plan, currency],
        )

    def set_terms(self, plan: str, terms: Row) -> None:
        self._dba.execute("update public.payment_products set terms = %s where id = %s", [json.dumps(terms), plan])

    def let_coupons_return(self, *, returns: bool) -> None:
        self._dba.execute("update payments.settings set coupon_returns_on_refund = %s", [returns])

    def break_handlers(self, kind: str, *, fulfil: bool, reverse: bool) -> None:
        self._dba.execute(
            "update payments.fulfilment_handlers set fulfil_function = %s, reverse_function = %s where kind = %s",
            [
                "payments.fail_to_fulfil" if fulfil else f"payments.fulfil_{kind}",
                "payments.fail_to_reverse" if reverse else f"payments.reverse_{kind}",
                kind,
            ],
        )

    @contextlib.contextmanager
    def another_purchase_counts(self) -> Iterator[None]:
        """Meanwhile another transaction holds the invoice counters."""
        with self._rival.transaction():
            self._rival.execute("select from payments.invoice_counters for update")
            yield

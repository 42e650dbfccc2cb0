"""get_or_create_checkout_session: one open session per purchase, priced by the catalogue."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

import pytest

from tests.support.database import Database, refused

FUNCTION = "get_or_create_checkout_session"
SHARD_OF_THAT_USER = 793  # a change of this number would move every user to another shard


def create(db: Database, user: uuid.UUID, plan: str = "credits_100", **arguments: Any) -> uuid.UUID:
    """What the user's app does."""
    session_id = db.as_user(user).rpc(FUNCTION, p_plan=plan, **arguments)
    assert isinstance(session_id, uuid.UUID)
    return session_id


def catalogue_with_odd_currencies(db: Database) -> None:
    db.new_product("odd", USD=1999, JPY=1999, KWD=1999)


class TestNew:
    def test_a_new_session_is_pending_and_priced_by_the_catalogue(self, db: Database) -> None:
        user = db.new_user()
        row = db.session(create(db, user, p_email="buyer@shop.test", p_subject="team 7", p_metadata={"from": "menu"}))
        assert {name: row[name] for name in ("user_id", "email", "product_id", "subject", "provider", "metadata")} == {
            "user_id": user, "email": "buyer@shop.test", "product_id": "credits_100", "subject": "team 7",
            "provider": "stripe", "metadata": {"from": "menu"},
        }  # fmt: skip
        assert (row["original_amount"], row["discount_amount"], row["amount"], row["currency"]) == (500, 0, 500, "USD")
        assert (row["status"], row["fulfilment_status"], row["attempts"], row["checkout_url"]) == (
            "pending",
            "none",
            0,
            None,
        )
        assert row["created_at"] == row["updated_at"] < row["expires_at"]

    def test_it_lives_as_long_as_the_settings_say(self, db: Database) -> None:
        db.sql("update payments.settings set session_ttl = '45 minutes'")
        row = db.session(db.new_session())
        assert (row["expires_at"] - row["created_at"]).total_seconds() == 45 * 60

    @pytest.mark.parametrize(("currency", "amount"), [("NGN", 750000), ("UZS", 6000000), ("ils", 1900)])
    def test_the_buyer_may_choose_a_currency_in_any_case(self, db: Database, currency: str, amount: int) -> None:
        row = db.session(create(db, db.new_user(), p_currency=currency))
        assert (row["currency"], row["amount"]) == (currency.upper(), amount)

    def test_the_e_mail_of_the_token_is_used_when_none_is_given(self, db: Database) -> None:
        user = db.new_user()
        session_id = db.as_user(user, email="token@shop.test").rpc(FUNCTION, p_plan="credits_100")
        assert db.session(session_id)["email"] == "token@shop.test"

    def test_a_user_who_signed_in_by_phone_has_no_e_mail_rather_than_an_empty_one(self, db: Database) -> None:
        session_id = db.as_user(db.new_user(), email="").rpc(FUNCTION, p_plan="credits_100")
        assert db.session(session_id)["email"] is None

    def test_what_was_sold_does_not_change_with_the_product(self, db: Database) -> None:
        user = db.new_user()
        attempt = db.open_attempt(create(db, user))
        db.sql(
            """update public.payment_products set terms = '{"credits": 1}', kind = 'credits' where id = 'credits_100'"""
        )
        db.apply(attempt)
        assert db.balance(user) == 100


class TestReuse:
    def test_asking_again_gives_the_same_session_and_writes_nothing(self, db: Database) -> None:
        user = db.new_user()
        first = create(db, user)
        assert db.as_user(user).rpc_that_only_reads(FUNCTION, p_plan="credits_100") == first
        assert db.as_service().rpc_that_only_reads(FUNCTION, p_plan="credits_100", p_user_id=user) == first

    @pytest.mark.parametrize("first", [None, "old@shop.test"])
    def test_a_changed_e_mail_address_is_taken(self, db: Database, first: str | None) -> None:
        user = db.new_user()
        session_id = create(db, user, p_email=first)
        assert create(db, user, p_email="new@shop.test") == session_id
        assert db.session(session_id)["email"] == "new@shop.test"
        for same in ({}, {"p_email": "new@shop.test"}):
            arguments = {"p_plan": "credits_100", **same}
            assert db.as_user(user).rpc_that_only_reads(FUNCTION, **arguments) == session_id
        assert db.session(session_id)["email"] == "new@shop.test"
        assert db.trail(session_id) == []

    def test_another_subject_is_another_purchase(self, db: Database) -> None:
        user = db.new_user()
        sessions = {create(db, user, p_subject=subject) for subject in (None, "team 1", "team 2", None, "team 1")}
        assert len(sessions) == 3

    def test_another_user_or_product_is_another_purchase(self, db: Database) -> None:
        user, other = db.new_user(), db.new_user()
        assert len({create(db, user), create(db, other), create(db, user, "credits_500")}) == 3

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"p_provider": "paystack"}, id="provider"),
            pytest.param({"p_currency": "NGN"}, id="currency"),
            pytest.param("update public.payment_prices set amount = 501 where currency = 'USD'", id="price"),
            pytest.param(
                """update public.payment_products set terms = '{"credits": 7}' where kind = 'credits'""", id="terms"
            ),
        ],
    )
    def test_a_changed_offer_supersedes_the_pending_session(self, db: Database, change: dict[str, str] | str) -> None:
        user = db.new_user()
        old = create(db, user)
        if isinstance(change, str):
            db.sql(change)
            change = {}
        new = create(db, user, **change)
        assert new != old
        assert (db.session(old)["status"], db.trail(old)) == ("cancelled", [("pending", "cancelled", "superseded")])
        assert db.session(new)["status"] == "pending"

    def test_a_processing_session_is_returned_as_it_is_whatever_changed(self, db: Database) -> None:
        user = db.new_user()
        session_id = create(db, user)
        db.apply(db.open_attempt(session_id), "processing")
        assert create(db, user, p_provider="paystack", p_currency="NGN") == session_id
        assert db.session(session_id)["status"] == "processing"

    def test_a_lapsed_session_is_expired_on_the_way(self, db: Database) -> None:
        user = db.new_user()
        old = create(db, user)
        db.lapse(old)
        new = create(db, user)
        assert new != old
        assert (db.session(old)["status"], db.trail(old)) == ("expired", [("pending", "expired", "lapsed")])

    def test_a_paid_session_is_not_reused(self, db: Database) -> None:
        user = db.new_user()
        paid = create(db, user)
        db.apply(db.open_attempt(paid))
        assert create(db, user) != paid


class TestIdempotencyKey:
    def test_the_same_call_gives_the_same_session_even_after_it_was_paid(self, db: Database) -> None:
        user = db.new_user()
        session_id = create(db, user, p_idempotency_key="k")
        db.apply(db.open_attempt(session_id))
        assert db.as_user(user).rpc_that_only_reads(FUNCTION, p_plan="credits_100", p_idempotency_key="k") == session_id

    @pytest.mark.parametrize(
        "change", [{"plan": "credits_500"}, {"p_subject": "s"}, {"p_provider": "click"}, {"p_metadata": {"a": 1}}]
    )
    def test_the_same_key_with_other_arguments_is_refused(self, db: Database, change: dict[str, Any]) -> None:
        user = db.new_user()
        create(db, user, p_idempotency_key="k")
        with refused("PT409", "idempotency_conflict"):
            create(db, user, p_idempotency_key="k", **change)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param("update public.payment_prices set amount = 501 where currency = 'USD'", id="price"),
            pytest.param("update public.payment_products set active = false", id="product withdrawn"),
            pytest.param("delete from public.payment_prices", id="currency withdrawn"),
            pytest.param("update payments.settings set providers = '{click}'", id="provider switched off"),
        ],
    )
    def test_a_replay_answers_what_the_first_call_answered_whatever_the_catalogue_says_now(
        self, db: Database, change: str
    ) -> None:
        user = db.new_user()
        arguments = {"p_plan": "credits_100", "p_price": Decimal(5), "p_currency": "USD", "p_idempotency_key": "k"}
        session_id = db.as_user(user).rpc(FUNCTION, **arguments)
        before = db.session(session_id)
        db.sql(change)
        assert db.as_user(user).rpc_that_only_reads(FUNCTION, **arguments) == session_id
        assert db.session(session_id) == before

    def test_a_lapsed_session_is_expired_on_the_way_and_still_answers_to_its_key(self, db: Database) -> None:
        user = db.new_user()
        session_id = create(db, user, p_idempotency_key="k")
        db.lapse(session_id)
        for _ in range(2):
            assert create(db, user, p_idempotency_key="k") == session_id
        assert db.trail(session_id) == [("pending", "expired", "lapsed")]

    def test_one_wish_written_differently_is_one_wish(self, db: Database) -> None:
        user = db.new_user()
        session_id = create(db, user, p_price=Decimal(5), p_currency="USD", p_idempotency_key="k")
        for price, currency in (("5.00", "usd"), ("5.0", "Usd"), ("5", "usd")):
            wish: dict[str, Any] = {"p_price": Decimal(price), "p_currency": currency, "p_idempotency_key": "k"}
            assert create(db, user, **wish) == session_id

    def test_keys_of_two_users_do_not_meet(self, db: Database) -> None:
        first, second = db.new_user(), db.new_user()
        assert create(db, first, p_idempotency_key="k") != create(db, second, "credits_500", p_idempotency_key="k")

    def test_a_reused_session_takes_the_key_and_answers_to_it_after_payment(self, db: Database) -> None:
        user = db.new_user()
        session_id = create(db, user)
        assert create(db, user, p_idempotency_key="k") == session_id
        db.apply(db.open_attempt(session_id))
        assert create(db, user, p_idempotency_key="k") == session_id
        assert create(db, user) != session_id


class TestPrice:
    @pytest.mark.parametrize(
        ("currency", "price"), [("USD", "19.99"), ("USD", "19.990"), ("JPY", "1999"), ("KWD", "1.999"), (None, "19.99")]
    )
    def test_the_right_price_is_accepted_in_major_units(self, db: Database, currency: str | None, price: str) -> None:
        catalogue_with_odd_currencies(db)
        session_id = create(db, db.new_user(), "odd", p_currency=currency, p_price=Decimal(price))
        assert db.session(session_id)["amount"] == 1999

    @pytest.mark.parametrize(
        ("currency", "price"),
        [("USD", "1999"), ("USD", "19.98"), ("USD", "0"), ("USD", "-19.99"), ("USD", "NaN"), ("USD", "19.991"),
         ("JPY", "19.99"), ("JPY", "1998"), ("KWD", "19.99"), ("KWD", "1.998")],
    )  # fmt: skip
    def test_a_client_cannot_choose_its_price(self, db: Database, currency: str, price: str) -> None:
        catalogue_with_odd_currencies(db)
        user = db.new_user()
        with refused("PT422", "price_mismatch") as caught:
            create(db, user, "odd", p_currency=currency, p_price=Decimal(price))
        assert f"1999 in minor units of {currency}" in str(caught.value.diag.message_hint)
        assert db.as_user(user).rpc("get_latest_checkout_session") == []


class TestRefusals:
    def test_an_unknown_or_inactive_product_cannot_be_bought(self, db: Database) -> None:
        db.sql("update public.payment_products set active = false where id = 'pro_month'")
        for plan in ("nothing", "pro_month", "", None):
            with refused("PT404", "product_unknown"):
                db.as_user(db.new_user()).rpc(FUNCTION, p_plan=plan)

    def test_a_currency_without_a_price_is_refused_and_the_hint_lists_the_others(self, db: Database) -> None:
        with refused("PT422", "currency_unavailable") as caught:
            create(db, db.new_user(), p_currency="EUR")
        assert "ILS, NGN, USD, UZS" in str(caught.value.diag.message_hint)

    @pytest.mark.parametrize("provider", ["cash", "", None, "Stripe"])
    def test_an_unknown_provider_is_refused(self, db: Database, provider: str | None) -> None:
        with refused("PT422", "provider_unknown"):
            create(db, db.new_user(), p_provider=provider)

    def test_an_unknown_coupon_is_refused(self, db: Database) -> None:
        with refused("PT422", "coupon_unknown"):
            create(db, db.new_user(), p_coupon="FREE")

    @pytest.mark.parametrize(
        "bad",
        [
            {"p_email": "nobody"}, {"p_email": ""}, {"p_email": "a@b@c"}, {"p_email": "a b@c"},
            {"p_email": "a@b\nBcc: c@d"},
            {"p_email": "a@" + "b" * 319}, {"p_subject": ""}, {"p_subject": "s" * 201}, {"p_idempotency_key": ""},
            {"p_idempotency_key": "k" * 256}, {"p_metadata": []}, {"p_metadata": {"a": "x" * 8192}},
        ],
        ids=lambda bad: "-".join(f"{name}={str(value)[:12]!r}" for name, value in bad.items()),
    )  # fmt: skip
    def test_bad_text_is_refused_by_name(self, db: Database, bad: dict[str, Any]) -> None:
        with refused("PT422", "invalid_input") as caught:
            create(db, db.new_user(), **bad)
        assert next(iter(bad)) in str(caught.value.diag.message_primary)

    def test_the_longest_texts_that_are_allowed_are_stored(self, db: Database) -> None:
        texts = {"p_email": "a@" + "b" * 318, "p_subject": "ü" * 200, "p_idempotency_key": "k" * 255}
        row = db.session(create(db, db.new_user(), **texts))
        assert [row["email"], row["subject"], row["idempotency_key"]] == list(texts.values())

    @pytest.mark.parametrize("field", ["p_email", "p_subject", "p_idempotency_key"])
    def test_sql_in_a_text_is_only_text(self, db: Database, field: str) -> None:
        text = "'');drop/**/table/**/payments.attempts;--@x"
        row = db.session(create(db, db.new_user(), **{field: text}))
        assert row[field.removeprefix("p_")] == text
        assert db.value("select count(*) from payments.attempts") == 0

    @pytest.mark.parametrize(
        ("field", "reason"),
        [("p_plan", "product_unknown"), ("p_provider", "provider_unknown"), ("p_currency", "currency_unavailable"),
         ("p_coupon", "coupon_unknown")],
    )  # fmt: skip
    def test_sql_in_a_name_names_nothing(self, db: Database, field: str, reason: str) -> None:
        arguments = {"p_plan": "credits_100", field: "' or '1'='1'; drop table payments.attempts; --"}
        with refused("PT404" if field == "p_plan" else "PT422", reason):
            db.as_user(db.new_user()).rpc(FUNCTION, **arguments)
        assert db.value("select count(*) from payments.attempts") == 0

    def test_nobody_creates_a_session_for_somebody_else(self, db: Database) -> None:
        owner, stranger = db.new_user(), db.new_user()
        assert db.session(create(db, owner, p_user_id=owner))["user_id"] == owner
        with refused("PT403", "not_your_session"):
            create(db, stranger, p_user_id=owner)
        with refused("42501"):
            db.as_anon().rpc(FUNCTION, p_plan="credits_100", p_user_id=owner)

    def test_the_service_must_name_a_user_who_exists(self, db: Database) -> None:
        with refused("PT422", "user_required"):
            db.as_service().rpc(FUNCTION, p_plan="credits_100")
        with refused("PT422", "user_unknown"):
            db.as_service().rpc(FUNCTION, p_plan="credits_100", p_user_id=uuid.uuid4())

    def test_a_token_without_a_user_is_not_trusted(self, db: Database) -> None:
        nameless = db.as_user("nobody", sub=None)
        with refused("PT401", "not_signed_in"):
            nameless.rpc(FUNCTION, p_plan="credits_100")


class TestId:
    def test_ids_have_the_uuidv7_layout_and_sort_by_creation(self, db: Database) -> None:
        user = db.new_user()
        before = db.value("select floor(extract(epoch from clock_timestamp()) * 1000)")
        ids = [create(db, user, p_subject=str(number)) for number in range(20)]
        after = db.value("select floor(extract(epoch from clock_timestamp()) * 1000)")
        assert {(made.version, made.variant) for made in ids} == {(7, uuid.RFC_4122)}
        assert ids == sorted(ids)
        assert all(before <= made.int >> 80 <= after for made in ids)

    def test_the_last_ten_bits_name_the_users_shard_for_ever(self, db: Database) -> None:
        user = uuid.UUID("11111111-2222-3333-4444-555555555555")
        made = [db.value("select payments.new_time_ordered_id(%s)", user) for _ in range(5)]
        assert len(set(made)) == 5
        assert {one.int & 1023 for one in made} == {SHARD_OF_THAT_USER}

    def test_users_spread_over_the_shards(self, db: Database) -> None:
        shards = db.sql(
            "select distinct right(payments.new_time_ordered_id(gen_random_uuid())::text, 3) as tail"
            " from generate_series(1, 2000)"
        )
        assert len({int(row["tail"], 16) & 1023 for row in shards}) > 700

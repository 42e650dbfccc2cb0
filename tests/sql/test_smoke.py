from tests.support.database import Database, outcome, refused

def test_a_purchase(db: Database) -> None:
    user = db.new_user()
    s = db.new_session(user)
    a = db.open_attempt(s)
    r = db.as_service().rpc("apply_payment_outcome", p_outcome=outcome(a), p_event={"id": "e", "type": "t", "payload": {}})
    assert r["fulfilment_status"] == "fulfilled"
    assert db.balance(user) == 100
    print(db.as_user(user).rpc("get_latest_checkout_session"))
    with refused("42501"):
        db.as_anon().rpc("get_latest_checkout_session")
    with refused("PT403", "not_your_session"):
        db.as_user(user).rpc("get_latest_checkout_session", p_user_id=db.new_user())

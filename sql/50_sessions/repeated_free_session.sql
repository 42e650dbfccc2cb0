-- A session that costs nothing is never open, so the index on open ones cannot recognise a double click. The same free
-- purchase within the life of a session is a repeat, unless the caller says with a new key that it is another one.
create function payments.repeated_free_session(p_draft public.payment_checkout_sessions, p_now timestamptz)
returns uuid
language plpgsql
volatile -- looks again behind the lock
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.lock_purchase(p_draft);
    if p_draft.idempotency_key is not null then
        return payments.session_of_idempotency_key(
            p_draft.user_id, p_draft.idempotency_key, p_draft.idempotency_fingerprint, p_now
        );
    end if;
    return (
        select s.id
        from payments.sessions_of_purchase(p_draft) as s
        where s.provider = 'none'
            and s.coupon_id = p_draft.coupon_id
            and s.status = 'completed'
            and s.created_at > p_now - (select t.session_ttl from payments.settings as t)
        order by s.id desc
        limit 1
    );
end;
$$;

comment on function payments.repeated_free_session(public.payment_checkout_sessions, timestamptz) is
'The completed session of the same purchase with the same coupon, if there is one; others that ask wait for its end.';

revoke all on function payments.repeated_free_session(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;

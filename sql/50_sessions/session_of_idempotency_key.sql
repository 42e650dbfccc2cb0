-- Before anything is priced: a replay answers what the first call answered, whatever the catalogue says now.
create function payments.session_of_idempotency_key(
    p_user_id uuid,
    p_idempotency_key text,
    p_fingerprint text,
    p_now timestamptz
)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
begin
    if p_idempotency_key is null then
        return null;
    end if;
    select s.* into v_session
    from public.payment_checkout_sessions as s
    where s.user_id = p_user_id and s.idempotency_key = p_idempotency_key;
    if v_session.idempotency_fingerprint <> p_fingerprint then
        raise exception 'This idempotency key was used with other arguments.'
            using errcode = 'PT409', detail = 'idempotency_conflict', hint = 'Use a new key for a new purchase.';
    end if;
    if v_session.expires_at <= p_now and v_session.status in ('pending', 'processing') then
        perform payments.move_session(
            v_session.id, array['pending', 'processing'], ('expired', 'client', 'lapsed', null, null), null, p_now
        );
    end if;
    return v_session.id;
end;
$$;

comment on function payments.session_of_idempotency_key(uuid, text, text, timestamptz) is
'The session that the same user made with the same key, in whatever state. Raises PT409 idempotency_conflict.';

revoke all on function payments.session_of_idempotency_key(uuid, text, text, timestamptz)
from public, anon, authenticated, service_role;

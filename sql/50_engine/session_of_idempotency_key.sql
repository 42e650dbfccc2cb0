create function payments.session_of_idempotency_key(p_draft public.payment_checkout_sessions)
returns uuid
language plpgsql
stable
set search_path = ''
as $$
declare
    v_id uuid;
    v_fingerprint text;
begin
    if p_draft.idempotency_key is null then
        return null;
    end if;
    select s.id, s.idempotency_fingerprint into v_id, v_fingerprint
    from public.payment_checkout_sessions as s
    where s.user_id = p_draft.user_id and s.idempotency_key = p_draft.idempotency_key;
    if v_fingerprint <> p_draft.idempotency_fingerprint then
        raise exception 'This idempotency key was used with other arguments.'
            using errcode = 'PT409', detail = 'idempotency_conflict', hint = 'Use a new key for a new purchase.';
    end if;
    return v_id;
end;
$$;

comment on function payments.session_of_idempotency_key(public.payment_checkout_sessions) is
'The session that the same user made with the same key, in whatever state. Raises PT409 idempotency_conflict.';

revoke all on function payments.session_of_idempotency_key(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

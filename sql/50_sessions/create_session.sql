create function payments.create_session(p_draft public.payment_checkout_sessions, p_now timestamptz)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id uuid;
    v_session public.payment_checkout_sessions := p_draft;
    v_nothing payments.captures;
begin
    v_id := payments.insert_session(p_draft, p_now);
    if v_id is null then
        return null;
    end if;
    perform payments.limit_new_sessions(p_draft.user_id, p_now);
    if p_draft.coupon_id is not null then
        v_session.id := v_id;
        perform payments.reserve_coupon(v_session, p_now);
    end if;
    if p_draft.amount = 0 then
        v_nothing.provider := 'none';
        v_nothing.amount := 0;
        v_nothing.currency := p_draft.currency;
        v_nothing.paid_at := p_now;
        perform payments.complete_session(payments.lock_session(v_id), v_nothing, null, 'client', p_now);
    end if;
    return v_id;
end;
$$;

comment on function payments.create_session(public.payment_checkout_sessions, timestamptz) is
'Stores a draft with its coupon place, and completes it when nothing is to be paid; null when another open session or '
'key stands in its way. Raises PT429 too_many_requests, PT409 coupon_exhausted, PT422 user_unknown.';

revoke all on function payments.create_session(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;

create function payments.create_session(p_draft public.payment_checkout_sessions, p_now timestamptz)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id uuid;
    v_nothing payments.captures;
begin
    begin
        insert into public.payment_checkout_sessions (
            id, user_id, email, product_id, kind, terms, subject, provider, currency,
            original_amount, discount_amount, amount, coupon_id,
            idempotency_key, idempotency_fingerprint, metadata, created_at, updated_at, expires_at
        )
        values (
            payments.new_time_ordered_id(p_draft.user_id),
            p_draft.user_id, p_draft.email, p_draft.product_id, p_draft.kind, p_draft.terms, p_draft.subject,
            p_draft.provider, p_draft.currency,
            p_draft.original_amount, p_draft.discount_amount, p_draft.amount, p_draft.coupon_id,
            p_draft.idempotency_key, p_draft.idempotency_fingerprint,
            p_draft.metadata, p_now, p_now, p_draft.expires_at
        )
        on conflict do nothing
        returning id into v_id;
    exception
        when foreign_key_violation then
            raise exception 'There is no user %.', p_draft.user_id
                using errcode = 'PT422', detail = 'user_unknown', hint = 'p_user_id is the id of a row of auth.users.';
    end;
    if v_id is null then
        return null;
    end if;
    perform payments.limit_new_sessions(p_draft.user_id, p_now);
    if p_draft.coupon_id is not null then
        p_draft.id := v_id;
        perform payments.reserve_coupon(p_draft, p_now);
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
'Stores a draft as a pending session with its coupon place, and completes it when nothing is to be paid; null when '
'another open session or key stands in its way. Raises PT429 too_many_requests, PT409 coupon_exhausted, PT422 '
'user_unknown.';

revoke all on function payments.create_session(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;

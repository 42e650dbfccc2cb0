create function payments.insert_session(p_draft public.payment_checkout_sessions, p_now timestamptz)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id uuid;
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
    return v_id;
exception
    when foreign_key_violation then
        raise exception 'There is no user %.', p_draft.user_id
            using errcode = 'PT422', detail = 'user_unknown', hint = 'p_user_id is the id of a row of auth.users.';
end;
$$;

comment on function payments.insert_session(public.payment_checkout_sessions, timestamptz) is
'Stores a draft as a pending session; null when another open session or key stands in its way.';

revoke all on function payments.insert_session(public.payment_checkout_sessions, timestamptz)
from public, anon, authenticated, service_role;

-- What becomes of the open session that stands where the draft wants to be: its id when the draft can have it, null
-- when it was moved out of the way. Reuse writes nothing but its first idempotency key, and an e-mail address that has
-- changed.
create function payments.reuse_session(
    p_open public.payment_checkout_sessions,
    p_draft public.payment_checkout_sessions,
    p_now timestamptz
)
returns uuid
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_open.expires_at <= p_now then
        perform payments.move_session(
            p_open.id, array['pending', 'processing'], ('expired', 'client', 'lapsed', null, null), null, p_now
        );
        return null;
    end if;
    if p_open.status = 'pending' and (
        p_open.provider, p_open.currency, p_open.amount, p_open.coupon_id, p_open.terms
    ) is distinct from (
        p_draft.provider, p_draft.currency, p_draft.amount, p_draft.coupon_id, p_draft.terms
    ) then
        perform payments.move_session(
            p_open.id, array['pending'], ('cancelled', 'client', 'superseded', null, null), null, p_now
        );
        return null;
    end if;
    if (p_draft.idempotency_key is not null and p_open.idempotency_key is null) or p_draft.email <> coalesce(p_open.email, '') then
        update public.payment_checkout_sessions as s
        set email = coalesce(p_draft.email, s.email),
            idempotency_key = coalesce(s.idempotency_key, p_draft.idempotency_key),
            idempotency_fingerprint = coalesce(s.idempotency_fingerprint, p_draft.idempotency_fingerprint),
            updated_at = p_now
        where s.id = p_open.id;
    end if;
    return p_open.id;
exception
    when unique_violation then -- the key was taken by another session meanwhile: the caller looks again
        return null;
end;
$$;

comment on function payments.reuse_session(
    public.payment_checkout_sessions, public.payment_checkout_sessions, timestamptz
) is
'Reuses the open session, or expires it (lapsed) or cancels it (superseded: provider, currency, coupon, price or terms '
'changed) and returns null.';

revoke all on function payments.reuse_session(
    public.payment_checkout_sessions, public.payment_checkout_sessions, timestamptz
) from public, anon, authenticated, service_role;

-- Read first (cheap, writes nothing), insert with ON CONFLICT DO NOTHING, read again: the unique index decides races.
create function payments.get_or_create_checkout_session(
    p_plan text,
    p_user_id uuid,
    p_email text,
    p_price numeric,
    p_provider text,
    p_currency text,
    p_coupon text,
    p_subject text,
    p_idempotency_key text,
    p_metadata jsonb
)
returns uuid
language plpgsql
volatile
security definer -- users hold no write rights on any table; require_user checks who calls
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user_id uuid := payments.require_user(p_user_id);
    v_fingerprint text;
    v_draft public.payment_checkout_sessions;
    v_open public.payment_checkout_sessions;
    v_id uuid;
begin
    if coalesce(p_email, p_subject, p_idempotency_key) is not null or p_metadata <> '{}' then
        perform payments.check_buyer_input(p_email, p_subject, p_idempotency_key, p_metadata);
    end if;
    if p_idempotency_key is not null then
        v_fingerprint := md5(jsonb_build_array(
            p_plan, p_email, trim_scale(p_price), p_provider, upper(p_currency), p_coupon, p_subject, p_metadata
        )::text);
        v_id := payments.session_of_idempotency_key(v_user_id, p_idempotency_key, v_fingerprint, now());
        if v_id is not null then
            return v_id;
        end if;
    end if;
    v_draft := payments.draft_session(
        p_plan, v_user_id, p_email, p_price, p_provider, p_currency, p_coupon, p_subject, p_metadata, now()
    );
    v_draft.idempotency_key := p_idempotency_key;
    v_draft.idempotency_fingerprint := v_fingerprint;
    if v_draft.amount = 0 then
        v_id := payments.repeated_free_session(v_draft, now());
        if v_id is not null then
            return v_id;
        end if;
    end if;
    perform payments.check_sale(v_draft);
    -- each round that does not return has seen another transaction make progress
    for v_round in 1..20 loop
        select
            s.id, s.status, s.expires_at, s.provider, s.currency, s.amount, s.coupon_id, s.terms, s.email, s.idempotency_key
        into
            v_open.id, v_open.status, v_open.expires_at, v_open.provider, v_open.currency, v_open.amount, v_open.coupon_id,
            v_open.terms, v_open.email, v_open.idempotency_key
        from public.payment_checkout_sessions as s
        where s.user_id = v_draft.user_id
            and s.product_id = v_draft.product_id
            and (s.subject = v_draft.subject or (s.subject is null and v_draft.subject is null))
            and s.status in ('pending', 'processing');
        if found then
            v_id := payments.reuse_session(v_open, v_draft, now());
        else
            v_id := payments.create_session(v_draft, now());
        end if;
        if v_id is null and p_idempotency_key is not null then
            v_id := payments.session_of_idempotency_key(v_user_id, p_idempotency_key, v_fingerprint, now());
        end if;
        if v_id is not null then
            return v_id;
        end if;
    end loop;
    raise exception 'Too many changes to this purchase at once.'
        using errcode = 'PT503', detail = 'try_again', hint = 'Send the same call again.';
end;
$$;

comment on function payments.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) is
'Body of public.get_or_create_checkout_session.';

revoke all on function payments.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) from public, anon, authenticated, service_role;
grant execute on function payments.get_or_create_checkout_session(
    text, uuid, text, numeric, text, text, text, text, text, jsonb
) to authenticated, service_role;

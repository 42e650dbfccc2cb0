create function public.complete_checkout_session(
    p_session_id uuid,
    p_provider_session_id text default null,
    p_provider_payment_id text default null,
    p_amount bigint default null,
    p_currency text default null,
    p_provider_customer_id text default null,
    p_paid_at timestamptz default null,
    p_stripe_session_id text default null,
    p_stripe_customer_id text default null
)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
    v_claim payments.captures;
begin
    perform payments.require_service();
    select s.id, s.provider, s.current_attempt, s.amount, s.currency
    into v_session.id, v_session.provider, v_session.current_attempt, v_session.amount, v_session.currency
    from public.payment_checkout_sessions as s
    where s.id = p_session_id;
    if not found then
        perform payments.refuse_unknown_session(p_session_id);
    end if;
    v_claim.provider := case when nullif(p_stripe_session_id, '') is null then v_session.provider else 'stripe' end;
    v_claim.provider_session_id := coalesce(nullif(p_provider_session_id, ''), nullif(p_stripe_session_id, ''));
    v_claim.provider_payment_id := coalesce(nullif(p_provider_payment_id, ''), v_claim.provider_session_id);
    if v_claim.provider_payment_id is null then
        raise exception 'Which payment paid this session?'
            using errcode = 'PT422', detail = 'payment_id_required',
            hint = 'Pass p_provider_payment_id, or the provider''s session id.';
    end if;
    if p_amount < 0 or p_currency !~* '^[a-z]{3}$'
        or length(v_claim.provider_payment_id) > 255 or length(v_claim.provider_session_id) > 255
        or length(coalesce(p_provider_customer_id, p_stripe_customer_id)) > 255
        or p_paid_at not between '1970-01-01Z' and now() + interval '1 day'
    then
        raise exception 'p_amount must not be negative, p_currency a code, provider ids at most 255 characters, p_paid_at past.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Pass minor units and a code such as USD.';
    end if;
    v_claim.session_id := v_session.id;
    v_claim.attempt_number := v_session.current_attempt;
    v_claim.amount := coalesce(p_amount, v_session.amount);
    v_claim.currency := upper(coalesce(p_currency, v_session.currency));
    v_claim.paid_at := coalesce(p_paid_at, now());
    return payments.settle_capture(v_claim, coalesce(p_provider_customer_id, p_stripe_customer_id), 'verify', now());
end;
$$;

comment on function public.complete_checkout_session(
    uuid, text, text, bigint, text, text, timestamptz, text, text
) is
'Completes and fulfils a session whose payment the caller has verified. Amount (minor units) and currency are compared '
'when given. Answers {session_id, status, already_completed, fulfilment_status, fulfilment, review_reason}. Raises '
'PT404 session_not_found, PT409 payment_reused, PT422 payment_id_required, invalid_input.';

revoke all on function public.complete_checkout_session(
    uuid, text, text, bigint, text, text, timestamptz, text, text
) from public, anon, authenticated, service_role;
grant execute on function public.complete_checkout_session(
    uuid, text, text, bigint, text, text, timestamptz, text, text
) to service_role;

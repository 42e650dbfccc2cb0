-- What the user wants, checked and priced, as a session row that does not exist yet.
create function payments.draft_session(
    p_plan text,
    p_user_id uuid,
    p_email text,
    p_price numeric,
    p_provider text,
    p_currency text,
    p_coupon text,
    p_subject text,
    p_metadata jsonb,
    p_now timestamptz
)
returns public.payment_checkout_sessions
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_draft public.payment_checkout_sessions;
    v_offer payments.offer;
begin
    select p_now + s.session_ttl into v_draft.expires_at from payments.settings as s where p_provider = any(s.providers);
    if not found then
        perform payments.check_provider(p_provider); -- says why not
    end if;
    v_offer := payments.make_offer(p_plan, p_currency, p_coupon);
    if p_price is not null then
        perform payments.check_expected_price(p_price, v_offer);
    end if;
    v_draft.user_id := p_user_id;
    -- who signed in by phone has the claim, but empty
    v_draft.email := coalesce(p_email, substring(
        auth.jwt() ->> 'email' from '^[^@[:space:][:cntrl:]]{1,160}@[^@[:space:][:cntrl:]]{1,159}$'
    ));
    v_draft.product_id := v_offer.product_id;
    v_draft.kind := v_offer.kind;
    v_draft.terms := v_offer.terms;
    v_draft.subject := p_subject;
    -- a coupon that takes the whole price leaves nothing to ask a provider for
    v_draft.provider := case when v_offer.amount > 0 then p_provider else 'none' end;
    v_draft.currency := v_offer.currency;
    v_draft.original_amount := v_offer.original_amount;
    v_draft.discount_amount := v_offer.discount_amount;
    v_draft.amount := v_offer.amount;
    v_draft.coupon_id := v_offer.coupon_id;
    v_draft.metadata := coalesce(p_metadata, '{}');
    return v_draft;
end;
$$;

comment on function payments.draft_session(
    text, uuid, text, numeric, text, text, text, text, jsonb, timestamptz
) is
'The session a caller asks for, before it is stored. Raises what its checks raise.';

revoke all on function payments.draft_session(
    text, uuid, text, numeric, text, text, text, text, jsonb, timestamptz
) from public, anon, authenticated, service_role;

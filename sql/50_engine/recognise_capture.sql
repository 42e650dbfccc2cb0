-- Is this money recorded already? Some callers know only the provider's session (the two p_stripe_ aliases), others
-- know the payment as well: both name the same money, and the payment's own id wins as soon as it is known.
create function payments.recognise_capture(p_claim payments.captures)
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
declare
    v_owner uuid;
begin
    select c.session_id into v_owner
    from payments.captures as c
    where c.provider = p_claim.provider and c.provider_payment_id = p_claim.provider_payment_id;
    if found then
        if v_owner <> p_claim.session_id then
            raise exception 'Payment % of % has paid another session.', p_claim.provider_payment_id, p_claim.provider
                using errcode = 'PT409', detail = 'payment_reused',
                hint = 'A payment pays one session only. Look at both sessions before you refund anything.';
        end if;
        return true;
    end if;
    if p_claim.provider_payment_id = p_claim.provider_session_id then
        return exists (
            select from payments.captures as c
            where c.session_id = p_claim.session_id
                and c.provider = p_claim.provider
                and c.provider_session_id = p_claim.provider_session_id
        );
    end if;
    -- lock order: session, capture
    update public.payment_checkout_sessions as s
    set provider_payment_id = p_claim.provider_payment_id
    where s.id = p_claim.session_id
        and s.provider = p_claim.provider
        and s.provider_payment_id = p_claim.provider_session_id;
    update payments.captures as c
    set provider_payment_id = p_claim.provider_payment_id
    where c.provider = p_claim.provider
        and c.provider_payment_id = p_claim.provider_session_id
        and c.session_id = p_claim.session_id;
    return found;
end;
$$;

comment on function payments.recognise_capture(payments.captures) is
'True when the claimed money is recorded for its session. Raises PT409 payment_reused when it paid another one.';

revoke all on function payments.recognise_capture(payments.captures) from public, anon, authenticated, service_role;

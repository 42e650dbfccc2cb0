-- Is this money recorded already? Some callers know only the provider's page (the two p_stripe_ aliases), others the
-- payment as well. Both name the same money: a page or a payment that is another session's pays no second one.
create function payments.recognise_capture(p_claim payments.captures, p_source text, p_now timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_known payments.captures;
    v_owner uuid;
begin
    select c.* into v_known
    from payments.captures as c
    where c.provider = p_claim.provider and c.provider_payment_id = p_claim.provider_payment_id;
    if not found and p_claim.provider_session_id is not null then
        select c.* into v_known
        from payments.captures as c
        where c.provider = p_claim.provider
            and c.provider_session_id = p_claim.provider_session_id
            and (
                c.session_id <> p_claim.session_id
                or p_claim.provider_session_id in (c.provider_payment_id, p_claim.provider_payment_id)
            )
        order by c.created_at
        limit 1;
        select a.session_id into v_owner
        from payments.attempts as a
        where a.provider = p_claim.provider and a.provider_session_id = p_claim.provider_session_id;
    end if;
    if p_claim.session_id <> coalesce(v_known.session_id, v_owner) then
        raise exception 'This payment of % belongs to another session.', p_claim.provider
            using errcode = 'PT409', detail = 'payment_reused',
            hint = 'A payment pays one session only. Look at both sessions before you refund anything.';
    end if;
    if v_known.provider_payment_id = v_known.provider_session_id
        and v_known.provider_payment_id <> p_claim.provider_payment_id
    then
        perform payments.name_capture(v_known, p_claim, p_source, p_now);
    end if;
    return v_known.session_id is not null;
end;
$$;

comment on function payments.recognise_capture(payments.captures, text, timestamptz) is
'True when the claimed money is recorded for its session. Raises PT409 payment_reused when it is another one''s.';

revoke all on function payments.recognise_capture(payments.captures, text, timestamptz)
from public, anon, authenticated, service_role;

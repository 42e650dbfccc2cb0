-- The session went with its user. Nothing can be fulfilled, but money that came for it is kept for a person to return.
create function payments.keep_orphaned_money(p_claim payments.captures, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_capture payments.captures := p_claim;
begin
    v_capture.disposition := 'orphaned';
    v_capture.created_at := p_now;
    insert into payments.captures
    select v_capture.*
    where not exists ( -- it may be recorded under its page's id
        select from payments.captures as c
        where c.provider = p_claim.provider
            and c.provider_session_id = p_claim.provider_session_id
            and p_claim.provider_session_id in (c.provider_payment_id, p_claim.provider_payment_id)
    )
    on conflict do nothing;
end;
$$;

comment on function payments.keep_orphaned_money(payments.captures, timestamptz) is
'Records a capture for a session whose user was deleted, unless it is recorded already.';

revoke all on function payments.keep_orphaned_money(payments.captures, timestamptz)
from public, anon, authenticated, service_role;

create function payments.fulfil_none(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return jsonb_build_object('kind', p_session.kind);
end;
$$;

comment on function payments.fulfil_none(public.payment_checkout_sessions) is
'For products that the host application delivers itself. Answers {kind}.';

revoke all on function payments.fulfil_none(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

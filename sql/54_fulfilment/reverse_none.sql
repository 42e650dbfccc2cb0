create function payments.reverse_none(p_session public.payment_checkout_sessions, p_share numeric)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return jsonb_build_object('kind', p_session.kind, 'share', p_share);
end;
$$;

comment on function payments.reverse_none(public.payment_checkout_sessions, numeric) is
'For products that the host application takes back itself. Answers {kind, share}.';

revoke all on function payments.reverse_none(public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;

create function payments.sessions_of_purchase(p_session public.payment_checkout_sessions)
returns setof public.payment_checkout_sessions
language plpgsql
stable
rows 5
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select s.*
    from public.payment_checkout_sessions as s
    where s.user_id = p_session.user_id
        and s.product_id = p_session.product_id
        and (s.subject = p_session.subject or (s.subject is null and p_session.subject is null));
end;
$$;

comment on function payments.sessions_of_purchase(public.payment_checkout_sessions) is
'All sessions of the same user, product and subject, this one included.';

revoke all on function payments.sessions_of_purchase(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

create function public.get_latest_checkout_session(p_user_id uuid default null)
returns setof public.payment_checkout_sessions
language plpgsql
stable
security invoker
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select s.*
    from public.payment_checkout_sessions as s
    where s.user_id = payments.require_user(p_user_id)
    order by s.id desc
    limit 1;
end;
$$;

comment on function public.get_latest_checkout_session(uuid) is
'The user''s newest checkout session, or no row: what an app resumes. Raises PT401 not_signed_in, PT403 '
'not_your_session, PT422 user_required.';

revoke all on function public.get_latest_checkout_session(uuid) from public, anon, authenticated, service_role;
grant execute on function public.get_latest_checkout_session(uuid) to authenticated, service_role;

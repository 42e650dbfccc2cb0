create function public.list_dead_notifications(p_limit int default 50)
returns table (
    id bigint, session_id uuid, kind text, occurrence text, email text, error text, tries int, finished_at timestamptz
)
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    return query
    select n.id, n.session_id, n.kind, n.occurrence, n.email, n.error, n.tries, n.finished_at
    from payments.notifications as n
    where n.status = 'dead'
    order by n.id
    limit p_limit;
end;
$$;

comment on function public.list_dead_notifications(int) is
'Letters that were given up, oldest first: {id, session_id, kind, occurrence, email (null: the operator), error, '
'tries, finished_at}. Raises PT422 invalid_input.';

revoke all on function public.list_dead_notifications(int) from public, anon, authenticated, service_role;
grant execute on function public.list_dead_notifications(int) to service_role;

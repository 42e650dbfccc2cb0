create function payments.refuse_unknown_session(p_session_id uuid)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'There is no checkout session %.', coalesce(p_session_id::text, 'without an id')
        using errcode = 'PT404', detail = 'session_not_found', hint = 'Check the session id or the reference.';
end;
$$;

comment on function payments.refuse_unknown_session(uuid) is
'For an id that no session has. Raises PT404 session_not_found.';

revoke all on function payments.refuse_unknown_session(uuid) from public, anon, authenticated, service_role;

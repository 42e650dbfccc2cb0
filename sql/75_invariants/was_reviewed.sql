create function payments.was_reviewed(p_session_id uuid, p_reason text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
        select from payments.session_events as e
        where e.session_id = p_session_id
            and e.reason = 'reviewed'
            and p_reason = any(string_to_array(split_part(e.detail, ': ', 1), ', '))
    );
end;
$$;

comment on function payments.was_reviewed(uuid, text) is
'Whether a person has closed a review of the session that had this reason, and so decided that it may stay as it is.';

revoke all on function payments.was_reviewed(uuid, text) from public, anon, authenticated, service_role;

create function payments.check_event(p_event jsonb)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(length(p_event ->> 'id'), 0) not between 1 and 255
        or coalesce(length(p_event ->> 'type'), 0) not between 1 and 255
        or p_event -> 'payload' is null
    then
        raise exception 'The event is not valid: id and type (1 to 255 characters) and payload are needed.'
            using errcode = 'PT422', detail = 'event_invalid', hint = 'Pass p_event as {"id": …, "type": …, "payload": …}.';
    end if;
end;
$$;

comment on function payments.check_event(jsonb) is 'Checks the shape of p_event. Raises PT422 event_invalid.';

revoke all on function payments.check_event(jsonb) from public, anon, authenticated, service_role;

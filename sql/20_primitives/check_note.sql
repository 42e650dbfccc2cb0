create function payments.check_note(p_note text)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(p_note, '') !~ '\S' or length(p_note) > 500 or p_note ~ '[[:cntrl:]]' then
        raise exception 'p_note must be one line of 1 to 500 characters.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Say who did what, and why.';
    end if;
end;
$$;

comment on function payments.check_note(text) is 'Raises PT422 invalid_input.';

revoke all on function payments.check_note(text) from public, anon, authenticated, service_role;

create function payments.add_reason(p_reasons text, p_reason text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when p_reason is null or p_reason = any(string_to_array(p_reasons, ', ')) then p_reasons
        else concat_ws(', ', p_reasons, p_reason)
    end;
end;
$$;

comment on function payments.add_reason(text, text) is
'A review_reason with one more reason: a later finding never hides one that still waits for a person.';

revoke all on function payments.add_reason(text, text) from public, anon, authenticated, service_role;

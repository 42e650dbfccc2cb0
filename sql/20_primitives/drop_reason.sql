create function payments.drop_reason(p_reasons text, p_reason text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return nullif(array_to_string(array_remove(string_to_array(p_reasons, ', '), p_reason), ', '), '');
end;
$$;

comment on function payments.drop_reason(text, text) is 'A review_reason without one reason; null when none is left.';

revoke all on function payments.drop_reason(text, text) from public, anon, authenticated, service_role;

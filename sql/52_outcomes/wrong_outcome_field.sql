create function payments.wrong_outcome_field(p_outcome jsonb)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_field text;
    v_outcome payments.outcome;
begin
    for v_field in select jsonb_object_keys(p_outcome) loop
        v_outcome := jsonb_populate_record(v_outcome, jsonb_build_object(v_field, p_outcome -> v_field));
    end loop;
    return null;
exception
    when data_exception then
        return v_field;
end;
$$;

comment on function payments.wrong_outcome_field(jsonb) is
'Name of the first field of an outcome whose value has not its type; null when there is none, or no object at all.';

revoke all on function payments.wrong_outcome_field(jsonb) from public, anon, authenticated, service_role;

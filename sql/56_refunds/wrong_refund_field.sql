create function payments.wrong_refund_field(p_refunds jsonb)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_said jsonb;
begin
    if jsonb_typeof(p_refunds) <> 'array' then
        return 'refunds must be an array';
    end if;
    for v_said in select e from jsonb_array_elements(coalesce(p_refunds, '[]')) as e loop
        if coalesce(length(v_said ->> 'provider_refund_id'), 0) not between 1 and 255 then
            return 'refunds[].provider_refund_id must have 1 to 255 characters';
        elsif coalesce(v_said ->> 'amount', '') !~ '^[1-9][0-9]{0,17}$' then
            return 'refunds[].amount must be a positive integer in minor units';
        elsif coalesce(v_said ->> 'status', 'succeeded') not in ('pending', 'succeeded', 'failed') then
            return 'refunds[].status must be pending, succeeded or failed';
        elsif coalesce(v_said ->> 'kind', 'refund') not in ('refund', 'dispute') then
            return 'refunds[].kind must be refund or dispute';
        end if;
    end loop;
    return null;
end;
$$;

comment on function payments.wrong_refund_field(jsonb) is
'What is wrong with an outcome''s refunds [{provider_refund_id, amount (minor units), status, kind, reason}]; null '
'when nothing is.';

revoke all on function payments.wrong_refund_field(jsonb) from public, anon, authenticated, service_role;

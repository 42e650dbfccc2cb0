create function payments.cycle_of_session(p_session public.payment_checkout_sessions)
returns int
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_cycle text := substring(p_session.subject from ':(.*)$');
begin
    if v_cycle is null or v_cycle !~ '^[1-9][0-9]{0,3}$' then
        raise exception 'p_subject must name the group and the cycle.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Pass <group id>:<cycle>, where cycles count from 1.';
    end if;
    return v_cycle::int;
end;
$$;

comment on function payments.cycle_of_session(public.payment_checkout_sessions) is
'The cycle that a contribution pays. Raises PT422 invalid_input.';

revoke all on function payments.cycle_of_session(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

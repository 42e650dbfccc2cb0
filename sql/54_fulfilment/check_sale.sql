create function payments.check_sale(p_draft public.payment_checkout_sessions)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_function text;
begin
    select h.check_function into v_function from payments.fulfilment_handlers as h where h.kind = p_draft.kind;
    if v_function is not null then
        execute format('select %s($1)', v_function) using p_draft;
    end if;
end;
$$;

comment on function payments.check_sale(public.payment_checkout_sessions) is
'Lets the kind''s handler refuse what it could not fulfil, before the buyer pays. Raises what the handler raises.';

revoke all on function payments.check_sale(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

create function public.abandon_checkout_attempt(p_attempt bigint, p_error_code text, p_error_message text default null)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    update payments.attempts as a
    set status = 'failed', error_code = left(p_error_code, 255), error_message = left(p_error_message, 500)
    where a.number = p_attempt and a.status = 'open' and a.checkout_url is null;
end;
$$;

comment on function public.abandon_checkout_attempt(bigint, text, text) is
'Gives up an attempt whose page could not be opened, so that the next try gets a new reference. The session stays '
'pending; an attempt that has a page is left alone.';

revoke all on function public.abandon_checkout_attempt(bigint, text, text)
from public, anon, authenticated, service_role;
grant execute on function public.abandon_checkout_attempt(bigint, text, text) to service_role;

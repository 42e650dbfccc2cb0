create function public.finish_idempotent_request(p_key text, p_status text, p_response jsonb)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    if p_status is null or p_status not in ('completed', 'failed') then
        raise exception 'p_status must be completed or failed.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'completed keeps the answer for repeats.';
    end if;
    -- who finishes last after a take-over does not change what repeats were told
    update payments.idempotency_keys as k
    set status = p_status, response = p_response, updated_at = now()
    where k.key = p_key and k.status <> 'completed';
end;
$$;

comment on function public.finish_idempotent_request(text, text, jsonb) is
'Ends a claimed request. completed: repeats get the response. failed: it had no effect, and the next call works again. '
'Raises PT422 invalid_input.';

revoke all on function public.finish_idempotent_request(text, text, jsonb)
from public, anon, authenticated, service_role;
grant execute on function public.finish_idempotent_request(text, text, jsonb) to service_role;

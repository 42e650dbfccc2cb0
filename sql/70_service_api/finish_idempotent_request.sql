create function public.finish_idempotent_request(
    p_key text,
    p_status text,
    p_response jsonb,
    p_claim bigint default null
)
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
    -- a holder whose claim was taken over can neither end the new holder's work nor change what repeats are told
    update payments.idempotency_keys as k
    set status = p_status, response = p_response, updated_at = now()
    where k.key = p_key and k.status = 'pending' and k.claim = coalesce(p_claim, k.claim);
    if not found and not exists (select from payments.idempotency_keys as k where k.key = p_key) then
        raise exception 'No request was begun with this idempotency key.'
            using errcode = 'PT404', detail = 'idempotency_key_unknown', hint = 'Call begin_idempotent_request first.';
    end if;
end;
$$;

comment on function public.finish_idempotent_request(text, text, jsonb, bigint) is
'Ends a claimed request. completed: repeats get the response. failed: it had no effect, and the next call works again. '
'With p_claim, a holder that was taken over changes nothing. Raises PT404 idempotency_key_unknown, PT422 '
'invalid_input.';

revoke all on function public.finish_idempotent_request(text, text, jsonb, bigint)
from public, anon, authenticated, service_role;
grant execute on function public.finish_idempotent_request(text, text, jsonb, bigint) to service_role;

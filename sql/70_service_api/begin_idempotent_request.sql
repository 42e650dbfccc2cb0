create function public.begin_idempotent_request(p_key text, p_request_hash text, p_user_id uuid default null)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_known payments.idempotency_keys;
begin
    perform payments.require_service();
    if coalesce(length(p_key), 0) not between 1 and 300 or coalesce(length(p_request_hash), 0) not between 1 and 300 then
        raise exception 'p_key and p_request_hash must have 1 to 300 characters.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Hash the request; name the user in the key.';
    end if;
    -- a key that is forgotten by cleanup_idempotency_keys between the two is claimed in the next round
    loop
        insert into payments.idempotency_keys (
            key, user_id, request_hash, status, leased_until, created_at, updated_at
        )
        values (
            p_key, p_user_id, p_request_hash, 'pending',
            now() + (select s.idempotency_lease from payments.settings as s), now(), now()
        )
        on conflict (key) do nothing;
        if found then
            return jsonb_build_object('status', 'new', 'claim', 1);
        end if;
        select k.* into v_known from payments.idempotency_keys as k where k.key = p_key for no key update;
        exit when found;
    end loop;
    if v_known.request_hash <> p_request_hash or v_known.user_id is distinct from p_user_id then
        raise exception 'This idempotency key was used with another request.'
            using errcode = 'PT409', detail = 'idempotency_conflict', hint = 'Use a new key for a new request.';
    end if;
    if v_known.status = 'completed' then
        return jsonb_build_object('status', 'completed', 'response', v_known.response);
    end if;
    if v_known.status = 'pending' and v_known.leased_until > now() then
        raise exception 'The same request is being worked on.'
            using errcode = 'PT409', detail = 'request_in_progress', hint = 'Send it again in a few seconds.';
    end if;
    update payments.idempotency_keys as k
    set status = 'pending',
        claim = k.claim + 1,
        leased_until = now() + (select s.idempotency_lease from payments.settings as s),
        updated_at = now()
    where k.key = p_key;
    return jsonb_build_object('status', 'new', 'claim', v_known.claim + 1);
end;
$$;

comment on function public.begin_idempotent_request(text, text, uuid) is
'Claims a request. Answers {status: new, claim} to the caller who must do the work (the first one, or the next after a '
'failure or a crash), and {status: completed, response} to a repeat. Raises PT409 request_in_progress, PT409 '
'idempotency_conflict, PT422 invalid_input.';

revoke all on function public.begin_idempotent_request(text, text, uuid)
from public, anon, authenticated, service_role;
grant execute on function public.begin_idempotent_request(text, text, uuid) to service_role;

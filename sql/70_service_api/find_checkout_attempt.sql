create function public.find_checkout_attempt(
    p_session_id uuid default null,
    p_reference text default null,
    p_provider text default null,
    p_provider_session_id text default null,
    p_user_id uuid default null
)
returns jsonb
language plpgsql
volatile -- counts a buyer's verifications
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_attempt payments.attempts;
    v_session public.payment_checkout_sessions;
begin
    perform payments.require_service();
    v_attempt := payments.find_attempt(p_provider, p_reference, p_session_id, p_provider_session_id, null);
    v_session := payments.session_by_id(v_attempt.session_id);
    if v_session.user_id <> p_user_id then
        raise exception 'This session belongs to another user.'
            using errcode = 'PT403', detail = 'not_your_session', hint = 'Sign in as the user who made the purchase.';
    end if;
    if p_user_id is not null then
        perform payments.limit_verifications(p_user_id, now());
    end if;
    return payments.attempt_answer(v_session, v_attempt) || jsonb_build_object(
        'other_pages', payments.other_pages(v_session, v_attempt.number, now())
    );
end;
$$;

comment on function public.find_checkout_attempt(uuid, text, text, text, uuid) is
'The session and attempt that the bridge must ask the provider about, found by any one of the ids; p_user_id restricts '
'it to that buyer, who may verify settings.verify_limit times per window. Raises PT404 session_not_found, PT403 '
'not_your_session, PT429 too_many_requests.';

revoke all on function public.find_checkout_attempt(uuid, text, text, text, uuid)
from public, anon, authenticated, service_role;
grant execute on function public.find_checkout_attempt(uuid, text, text, text, uuid) to service_role;

create function public.open_checkout_attempt(p_session_id uuid, p_provider text default null)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
    v_provider text;
    v_attempt payments.attempts;
begin
    perform payments.require_service();
    v_session := payments.lock_session(p_session_id);
    v_provider := coalesce(p_provider, v_session.provider);
    if v_session.status <> 'pending' then
        raise exception 'This session cannot be paid: it is %.', v_session.status
            using errcode = 'PT409', detail = 'session_not_pending', hint = 'Create a session for a new purchase.';
    end if;
    if v_session.expires_at <= now() then
        raise exception 'This session expired at %.', v_session.expires_at
            using errcode = 'PT410', detail = 'session_expired', hint = 'Call get_or_create_checkout_session again.';
    end if;
    perform payments.check_provider(v_provider);
    v_attempt := payments.reusable_attempt(v_session, v_provider, now());
    if v_attempt.number is null then
        v_attempt := payments.new_attempt(v_session, v_provider, now());
    end if;
    return payments.attempt_answer(v_session, v_attempt) || jsonb_build_object(
        'other_pages', case
            when v_attempt.checkout_url is null then payments.other_pages(v_session, v_attempt.number, now())
            else '[]'
        end
    );
end;
$$;

comment on function public.open_checkout_attempt(uuid, text) is
'Stores the attempt before its page is opened, or gives the one whose page is still alive (checkout_url is then set). '
'Answers number, reference, amount (minor units), currency, email, product_name, expires_at and more; other_pages '
'are those to close first. Raises PT404 session_not_found, PT409 session_not_pending, PT410 session_expired, PT422 '
'provider_unknown.';

revoke all on function public.open_checkout_attempt(uuid, text) from public, anon, authenticated, service_role;
grant execute on function public.open_checkout_attempt(uuid, text) to service_role;

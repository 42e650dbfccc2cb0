create function public.close_review(p_session_id uuid, p_note text, p_reasons text default null)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_session public.payment_checkout_sessions;
begin
    perform payments.require_service();
    perform payments.check_note(p_note);
    v_session := payments.lock_session(p_session_id);
    -- nobody dismisses what they have not seen
    if v_session.review_reason is null or v_session.review_reason <> coalesce(p_reasons, v_session.review_reason) then
        raise exception 'The review is not the one that was looked at: now it is %.',
            coalesce(v_session.review_reason, 'closed')
            using errcode = 'PT409', detail = 'review_changed', hint = 'Read the session again.';
    end if;
    perform payments.add_session_event(
        p_session_id, v_session.status, v_session.status, 'admin', 'reviewed', null, now(),
        v_session.review_reason || ': ' || p_note
    );
    update public.payment_checkout_sessions as s
    set review_reason = null, updated_at = now()
    where s.id = p_session_id;
end;
$$;

comment on function public.close_review(uuid, text, text) is
'A person has looked at a session and nothing is left to do: closes its review, and keeps the reasons with the note (1 '
'to 500 characters) in the audit trail. p_reasons: the review_reason that was looked at; another one is not closed. '
'Raises PT404 session_not_found, PT409 review_changed, PT422 invalid_input.';

revoke all on function public.close_review(uuid, text, text) from public, anon, authenticated, service_role;
grant execute on function public.close_review(uuid, text, text) to service_role;

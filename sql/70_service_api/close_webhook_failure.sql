create function public.close_webhook_failure(p_provider text, p_event_id text, p_note text)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_note(p_note);
    -- only what nobody sends again: a later delivery of it would be a duplicate
    update payments.webhook_events as e
    set status = 'handled', handled_at = now(), payload = '{}',
        error = left(coalesce(e.error, '') || ': ' || p_note, 700)
    where e.provider = p_provider and e.event_id = p_event_id and e.status = 'dead';
    if not found then
        raise exception 'No dead webhook of % has this id.', quote_literal(left(p_provider, 64))
            using errcode = 'PT404', detail = 'dead_letter_unknown', hint = 'list_webhook_failures shows those that wait.';
    end if;
end;
$$;

comment on function public.close_webhook_failure(text, text, text) is
'A person has looked at a dead webhook and nothing is left to do: it waits no more, its payload goes, and the note (1 '
'to 500 characters) stays behind its reason. Raises PT404 dead_letter_unknown, PT422 invalid_input.';

revoke all on function public.close_webhook_failure(text, text, text) from public, anon, authenticated, service_role;
grant execute on function public.close_webhook_failure(text, text, text) to service_role;

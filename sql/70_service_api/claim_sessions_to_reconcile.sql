-- The queue is the current attempts themselves. A claim moves the next time on, so that a crashed worker's session
-- comes back; what has been settled meanwhile leaves the queue here, and its purchase never paid for that.
create function public.claim_sessions_to_reconcile(p_limit int default 50)
returns table (session_id uuid, provider text, reference text, provider_session_id text, tries int)
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    return query
    with due as (
        select a.number, (
            s.id is not null and s.completed_at is null and a.provider_session_id is not null
            and a.status in ('open', 'processing')
        ) as unsettled
        from payments.attempts as a
        left join public.payment_checkout_sessions as s on a.session_id = s.id and a.number = s.current_attempt
        where a.reconcile_at <= now()
        order by a.reconcile_at
        limit p_limit
        for no key update of a skip locked
    ),

    claimed as (
        update payments.attempts as a
        set reconcile_at = case when due.unsettled then now() + interval '5 minutes' end,
            reconcile_tries = a.reconcile_tries + due.unsettled::int
        from due
        where a.number = due.number
        returning a.*
    )

    select c.session_id, c.provider, c.reference, c.provider_session_id, c.reconcile_tries
    from claimed as c
    where c.reconcile_at is not null;
end;
$$;

comment on function public.claim_sessions_to_reconcile(int) is
'Looks at up to p_limit due pages and gives those whose provider must be asked, each to one worker: {session_id, '
'provider, reference, provider_session_id, tries}. The claim lasts 5 minutes; end it with finish_reconcile.';

revoke all on function public.claim_sessions_to_reconcile(int) from public, anon, authenticated, service_role;
grant execute on function public.claim_sessions_to_reconcile(int) to service_role;

create function public.claim_notifications(p_limit int default 50, p_kinds text[] default null)
returns table (id bigint, session_id uuid, user_id uuid, kind text, email text, payload jsonb, tries int)
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
        -- a reminder that waited here while its buyer paid is not sent
        select n.id, n.kind = 'reminder' and not exists (
            select from public.payment_checkout_sessions as s
            where s.id = n.session_id and s.status = 'pending' and s.expires_at > now()
        ) as pointless
        from payments.notifications as n
        where n.status = 'queued' and n.due_at <= now() and (p_kinds is null or n.kind = any(p_kinds))
        order by n.due_at
        limit p_limit
        for no key update skip locked
    ),

    claimed as (
        update payments.notifications as n
        set status = case when due.pointless then 'cancelled' else n.status end,
            finished_at = case when due.pointless then now() end,
            tries = n.tries + 1,
            due_at = now() + interval '5 minutes'
        from due
        where n.id = due.id
        returning n.*
    )

    select c.id, c.session_id, c.user_id, c.kind, c.email, c.payload || jsonb_build_object(
        'occurrence', c.occurrence,
        'product_name', (select p.name from public.payment_products as p where p.id = c.payload ->> 'product_id'),
        'invoice', (
            select i.series || '-' || i.year || '-' || i.number
            from public.payment_invoices as i
            where i.session_id = c.session_id and i.kind = 'invoice'
        )
    ), c.tries
    from claimed as c
    where c.status = 'queued'
    order by c.id;
end;
$$;

comment on function public.claim_notifications(int, text[]) is
'Up to p_limit due notifications (of p_kinds; null is all), each for one worker: {id, session_id, user_id, kind, email '
'(null: the operator), payload, tries}. The claim lasts 5 minutes; end it with finish_notification.';

revoke all on function public.claim_notifications(int, text[]) from public, anon, authenticated, service_role;
grant execute on function public.claim_notifications(int, text[]) to service_role;

create function public.audit_payments()
returns table (change text, kind text, subject text, detail text)
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    -- it reads everything: one at a time
    if not pg_try_advisory_xact_lock(7243923, 1) then
        return;
    end if;
    return query
    select case when k.closed_at is null then 'opened' else 'closed' end, k.kind, k.subject, k.detail
    from payments.keep_alerts(
        array['broken_invariant'],
        (
            select coalesce(
                jsonb_agg(jsonb_build_object('kind', 'broken_invariant', 'subject', b.invariant, 'detail', b.detail)), '[]'
            )
            from (
                select r.invariant, format('%s rows of check_payment_invariants.', count(*)) as detail
                from public.check_payment_invariants() as r
                group by r.invariant
            ) as b
        ),
        now()
    ) as k;
end;
$$;

comment on function public.audit_payments() is
'Opens an alert for each invariant that check_payment_invariants finds broken and closes those that hold again; rows '
'as of watch_payments. Reads everything.';

revoke all on function public.audit_payments() from public, anon, authenticated, service_role;
grant execute on function public.audit_payments() to service_role;

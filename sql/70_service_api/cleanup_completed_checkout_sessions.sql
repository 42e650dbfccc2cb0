create function public.cleanup_completed_checkout_sessions(
    p_older_than interval default '90 days',
    p_limit int default 10000
)
returns int
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
set enable_sort = off -- by its index: the planner does not know that old ids have an old updated_at
as $$
declare
    v_count int;
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    if p_older_than < interval '1 day' then
        raise exception 'p_older_than must be a day at least.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Late money and refunds need their sessions.';
    end if;
    with old as (
        select s.id
        from public.payment_checkout_sessions as s
        where s.id < payments.first_id_at(now() - p_older_than)
            and s.status not in ('pending', 'processing')
            and s.review_reason is null
            and s.updated_at < now() - p_older_than
            -- counted, so that each session asks its index: a join would read all refunds
            and 0 = (
                select count(*) from public.payment_refunds as r where r.session_id = s.id and r.status = 'pending'
            )
        order by s.id
        limit p_limit
        for update skip locked
    )

    delete from public.payment_checkout_sessions as s
    using old
    where s.id = old.id;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function public.cleanup_completed_checkout_sessions(interval, int) is
'Deletes up to p_limit closed sessions that nothing has happened to for so long, oldest first, and returns how many. '
'Those in review or with a refund under way stay. Captures, refunds, credit entries, invoices and the audit trail are '
'kept. Raises PT422 invalid_input.';

revoke all on function public.cleanup_completed_checkout_sessions(interval, int)
from public, anon, authenticated, service_role;
grant execute on function public.cleanup_completed_checkout_sessions(interval, int) to service_role;

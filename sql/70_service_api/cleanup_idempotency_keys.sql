create function public.cleanup_idempotency_keys(
    p_older_than interval default '24 hours',
    p_limit int default 10000
)
returns int
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count int;
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    if p_older_than < interval '0' then
        raise exception 'p_older_than must not be negative.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Keep keys for as long as clients repeat requests.';
    end if;
    with old as (
        select k.key
        from payments.idempotency_keys as k
        where k.updated_at < now() - p_older_than and (k.status <> 'pending' or k.leased_until < now())
        order by k.updated_at
        limit p_limit
        for update skip locked
    )

    delete from payments.idempotency_keys as k
    using old
    where k.key = old.key;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function public.cleanup_idempotency_keys(interval, int) is
'Forgets up to p_limit finished and abandoned requests that are older, oldest first, and returns how many. Raises '
'PT422 invalid_input.';

revoke all on function public.cleanup_idempotency_keys(interval, int)
from public, anon, authenticated, service_role;
grant execute on function public.cleanup_idempotency_keys(interval, int) to service_role;

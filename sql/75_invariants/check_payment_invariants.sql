-- Each guarantee as a question about the data. Constraints make most of the answers impossible; asking anyway is how a
-- restored, hand-edited or half-migrated database is found out. One function per area, in this folder.
create function public.check_payment_invariants()
returns table (invariant text, subject text, detail text)
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    return query
    select r.* from payments.broken_session_rules() as r
    union all
    select r.* from payments.broken_credit_rules() as r
    union all
    select r.* from payments.broken_grant_rules() as r
    union all
    select r.* from payments.broken_coupon_rules() as r
    union all
    select r.* from payments.broken_refund_rules() as r;
end;
$$;

comment on function public.check_payment_invariants() is
'The guarantees that do not hold, one row each: invariant, subject (a session or user id), detail. No rows: healthy. '
'Reads everything: run it at a quiet hour, or on a replica.';

revoke all on function public.check_payment_invariants() from public, anon, authenticated, service_role;
grant execute on function public.check_payment_invariants() to service_role;

-- For schedulers, which keep an error where somebody looks and throw rows away.
create function payments.assert_invariants()
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_broken text;
begin
    select string_agg(i.invariant || ' ' || i.subject, '; ') into v_broken
    from (select b.* from public.check_payment_invariants() as b limit 10) as i;
    if v_broken is not null then
        raise exception 'Broken: %.', v_broken
            using errcode = 'PT500', detail = 'invariant_broken', hint = 'select * from check_payment_invariants().';
    end if;
end;
$$;

comment on function payments.assert_invariants() is
'Raises PT500 invariant_broken when check_payment_invariants finds anything.';

revoke all on function payments.assert_invariants() from public, anon, authenticated, service_role;

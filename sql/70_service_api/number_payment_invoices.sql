create function public.number_payment_invoices(p_limit int default 1000)
returns int
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_waiting payments.unnumbered_invoices;
    v_count int := 0;
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    -- wait for whoever is numbering; from here on the counters are ours
    perform 1
    from payments.invoice_counters as c
    where c.year = extract(year from now() at time zone 'UTC')
    order by c.series
    for no key update;
    for v_waiting in
        select u.* from payments.unnumbered_invoices as u order by u.id limit p_limit for update skip locked
    loop
        exit when not payments.number_document(
            jsonb_populate_record(null::public.payment_invoices, v_waiting.document), now()
        );
        delete from payments.unnumbered_invoices as u where u.id = v_waiting.id;
        v_count := v_count + 1;
    end loop;
    return v_count;
end;
$$;

comment on function public.number_payment_invoices(int) is
'Numbers up to p_limit documents of purchases that happened at the same moment as another one, in the order of the '
'purchases, and returns how many. Run it every minute.';

revoke all on function public.number_payment_invoices(int) from public, anon, authenticated, service_role;
grant execute on function public.number_payment_invoices(int) to service_role;

-- The counter's row lock lasts until commit: only so does a rollback leave no gap. Purchases would queue at it, one
-- disk flush each, so nobody waits: who finds it locked goes on without a number (number_payment_invoices).
create function payments.number_document(p_document public.payment_invoices, p_now timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_document public.payment_invoices := p_document;
begin
    v_document.issued_at := p_now;
    v_document.year := extract(year from p_now at time zone 'UTC');
    update payments.invoice_counters as c
    set last_number = c.last_number + 1
    where (c.series, c.year) = (
        select k.series, k.year
        from payments.invoice_counters as k
        where k.series = v_document.series and k.year = v_document.year
        for no key update skip locked
    )
    returning c.last_number into v_document.number;
    if not found and pg_try_advisory_xact_lock(hashtextextended(v_document.series || v_document.year, 7243921)) then
        -- the first of its series and year, unless the row was only locked
        -- (INSERT would wait for whoever is changing the row, even with ON CONFLICT)
        insert into payments.invoice_counters (series, year, last_number)
        select v_document.series, v_document.year, 1
        where not exists (
            select from payments.invoice_counters as c
            where c.series = v_document.series and c.year = v_document.year
        )
        on conflict do nothing;
        v_document.number := 1;
    end if;
    if found then
        insert into public.payment_invoices select v_document.*;
        return true;
    end if;
    return false;
end;
$$;

comment on function payments.number_document(public.payment_invoices, timestamptz) is
'Gives a document the next number of its series and year and stores it; false when another transaction holds the '
'counter.';

revoke all on function payments.number_document(public.payment_invoices, timestamptz)
from public, anon, authenticated, service_role;

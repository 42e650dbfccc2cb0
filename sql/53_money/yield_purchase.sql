-- Late money: an expired, failed or cancelled session is being paid after all. A newer session of the same purchase
-- must not tempt the buyer to pay again: if it is unpaid it is cancelled, if it is paid a person looks at the two.
create function payments.yield_purchase(p_session public.payment_checkout_sessions, p_source text, p_now timestamptz)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rival uuid;
begin
    -- two late payments of one purchase must see each other, and may not wait for each other's rows
    perform payments.lock_purchase(p_session, p_wait => false);
    -- a rival that is replaced while we wait for it has a successor: look until there is none
    loop
        select s.id into v_rival
        from payments.sessions_of_purchase(p_session) as s
        where s.status = 'pending';
        exit when not found;
        perform payments.move_session(
            v_rival, array['pending'], ('cancelled', p_source, 'superseded', null, null), null, p_now
        );
    end loop;
    return case
        when exists (
            select from payments.sessions_of_purchase(p_session) as s
            where s.id <> p_session.id
                and (s.status = 'processing' or s.completed_at >= p_session.created_at)
        ) then 'paid_twice'
    end;
end;
$$;

comment on function payments.yield_purchase(public.payment_checkout_sessions, text, timestamptz) is
'Cancels an unpaid newer session of a purchase that late money settles; returns paid_twice when another one is paid or '
'about to be.';

revoke all on function payments.yield_purchase(public.payment_checkout_sessions, text, timestamptz)
from public, anon, authenticated, service_role;

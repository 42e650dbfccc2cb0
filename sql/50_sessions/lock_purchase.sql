-- Comes before the session in the lock order: whoever holds a session and finds out too late does not wait.
create function payments.lock_purchase(p_session public.payment_checkout_sessions, p_wait boolean default true)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_key bigint := hashtextextended(
        concat_ws(' ', p_session.user_id, p_session.product_id, p_session.subject), 7243920
    );
begin
    if p_wait then
        perform pg_advisory_xact_lock(v_key);
    elsif not pg_try_advisory_xact_lock(v_key) then
        raise exception 'Another session of this purchase is being paid at the same time.'
            using errcode = 'PT503', detail = 'try_again', hint = 'Send the same call again.';
    end if;
end;
$$;

comment on function payments.lock_purchase(public.payment_checkout_sessions, boolean) is
'Makes transactions about the same user, product and subject wait for each other, where no row could. Raises PT503 '
'try_again when it may not wait.';

revoke all on function payments.lock_purchase(public.payment_checkout_sessions, boolean)
from public, anon, authenticated, service_role;

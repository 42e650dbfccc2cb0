-- The balance never goes below zero: what the buyer has spent already is a shortfall, recorded and shown. A later
-- purchase does not pay for it; a refund that fails gives back only what was taken.
create function payments.reverse_credits(p_session public.payment_checkout_sessions, p_share numeric)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_owed bigint := round(round((p_session.terms ->> 'credits')::bigint * p_share, 20)); -- p_share has 40 digits
    v_balance bigint;
    v_clawback payments.credit_clawbacks;
    v_take bigint;
begin
    select b.balance into v_balance
    from public.payment_credit_balances as b
    where b.user_id = p_session.user_id
    for no key update;
    insert into payments.credit_clawbacks (session_id, user_id, owed, taken, changes, updated_at)
    values (p_session.id, p_session.user_id, 0, 0, 0, now())
    on conflict (session_id) do nothing;
    select c.* into strict v_clawback from payments.credit_clawbacks as c where c.session_id = p_session.id;
    v_take := case
        when v_owed > v_clawback.owed then least(v_owed - v_clawback.owed, v_balance)
        else least(v_clawback.taken, v_owed) - v_clawback.taken
    end;
    update payments.credit_clawbacks as c
    set owed = v_owed, taken = c.taken + v_take, changes = c.changes + (v_take <> 0)::int, updated_at = now()
    where c.session_id = p_session.id
    returning c.* into v_clawback;
    if v_take <> 0 then
        insert into public.payment_credit_entries (user_id, amount, reason, source, created_at)
        values (
            p_session.user_id, -v_take, case when v_take > 0 then 'clawback' else 'reinstatement' end,
            p_session.id || ':' || v_clawback.changes, now()
        );
        update public.payment_credit_balances as b
        set balance = b.balance - v_take, updated_at = now()
        where b.user_id = p_session.user_id;
    end if;
    return jsonb_build_object(
        'share', p_share, 'credits', v_clawback.taken, 'shortfall', v_clawback.owed - v_clawback.taken
    );
end;
$$;

comment on function payments.reverse_credits(public.payment_checkout_sessions, numeric) is
'Leaves the buyer without a share of the purchased credits, in proportion (rounded half up), never below zero. Answers '
'{share, credits, shortfall}.';

revoke all on function payments.reverse_credits(public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;

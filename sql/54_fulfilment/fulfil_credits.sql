create function payments.fulfil_credits(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_credits bigint := (p_session.terms ->> 'credits')::bigint;
    v_balance bigint;
begin
    insert into public.payment_credit_entries (user_id, amount, reason, source, created_at)
    values (p_session.user_id, v_credits, 'purchase', p_session.id, now());
    insert into public.payment_credit_balances as b (user_id, balance, updated_at)
    values (p_session.user_id, v_credits, now())
    on conflict (user_id) do update
        set balance = b.balance + excluded.balance, updated_at = excluded.updated_at
    returning b.balance into v_balance;
    return jsonb_build_object('kind', 'credits', 'credits', v_credits, 'balance', v_balance);
end;
$$;

comment on function payments.fulfil_credits(public.payment_checkout_sessions) is
'Adds terms.credits to the buyer''s balance, once per session. Answers {kind, credits, balance}.';

revoke all on function payments.fulfil_credits(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

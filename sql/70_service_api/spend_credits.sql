create function public.spend_credits(p_user_id uuid, p_amount bigint, p_reason text, p_idempotency_key text)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_source text := p_user_id || ':' || p_idempotency_key;
    v_balance bigint;
    v_spent bigint;
begin
    perform payments.require_service();
    if v_source is null or length(p_idempotency_key) not between 1 and 255 or coalesce(p_amount, 0) <= 0 then
        raise exception 'p_user_id, p_idempotency_key (1 to 255 characters) and a positive p_amount are needed.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Use one key per thing that is paid with credits.';
    end if;
    -- the entry first: of two calls with one key the second waits here, and then finds it
    insert into public.payment_credit_entries (user_id, amount, reason, source, note, created_at)
    values (p_user_id, -p_amount, 'spend', v_source, left(p_reason, 200), now())
    on conflict (reason, source) do nothing;
    if not found then
        select -e.amount into v_spent
        from public.payment_credit_entries as e
        where e.reason = 'spend' and e.source = v_source;
        if v_spent <> p_amount then
            raise exception 'This idempotency key was used for % credits.', v_spent
                using errcode = 'PT409', detail = 'idempotency_conflict', hint = 'Use a new key for another spending.';
        end if;
        select b.balance into v_balance from public.payment_credit_balances as b where b.user_id = p_user_id;
        return jsonb_build_object('spent', p_amount, 'balance', v_balance, 'already_spent', true);
    end if;
    update public.payment_credit_balances as b
    set balance = b.balance - p_amount, updated_at = now()
    where b.user_id = p_user_id and b.balance >= p_amount
    returning b.balance into v_balance;
    if not found then
        raise exception 'Not enough credits for %.', p_amount
            using errcode = 'PT402', detail = 'insufficient_credits', hint = 'The user must buy credits first.';
    end if;
    return jsonb_build_object('spent', p_amount, 'balance', v_balance, 'already_spent', false);
end;
$$;

comment on function public.spend_credits(uuid, bigint, text, text) is
'Takes credits from a user, once per key, never below zero. p_reason is for the user''s statement. Answers {spent, '
'balance, already_spent}. Raises PT402 insufficient_credits, PT409 idempotency_conflict, PT422 invalid_input.';

revoke all on function public.spend_credits(uuid, bigint, text, text) from public, anon, authenticated, service_role;
grant execute on function public.spend_credits(uuid, bigint, text, text) to service_role;

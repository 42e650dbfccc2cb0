create function payments.fulfil_contribution(p_session public.payment_checkout_sessions)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group public.payment_groups := payments.group_of_session(p_session);
    v_cycle int := payments.cycle_of_session(p_session);
    v_position int;
begin
    insert into public.payment_contributions as c (
        group_id, user_id, cycle, status, session_id, amount, currency, paid_at, updated_at
    )
    values (
        v_group.id, p_session.user_id, v_cycle, 'paid', p_session.id, p_session.amount, p_session.currency,
        now(), now()
    )
    on conflict (group_id, user_id, cycle) do update
        set status = excluded.status,
            session_id = excluded.session_id,
            amount = excluded.amount,
            currency = excluded.currency,
            paid_at = excluded.paid_at,
            updated_at = excluded.updated_at
        where c.status = 'refunded';
    if not found then
        raise exception 'Cycle % was paid by another session.', v_cycle
            using errcode = 'PT409', detail = 'contribution_paid', hint = 'Refund one of the two payments.';
    end if;
    select m.position into v_position
    from public.payment_group_members as m
    where m.group_id = v_group.id and m.user_id = p_session.user_id;
    return jsonb_build_object(
        'kind', 'contribution', 'group_id', v_group.id, 'cycle', v_cycle, 'position', v_position
    );
end;
$$;

comment on function payments.fulfil_contribution(public.payment_checkout_sessions) is
'Marks the cycle that the session''s subject names as paid, exactly once. Answers {kind, group_id, cycle, position}. '
'Raises PT409 contribution_paid.';

revoke all on function payments.fulfil_contribution(public.payment_checkout_sessions)
from public, anon, authenticated, service_role;

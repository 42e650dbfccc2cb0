-- The caller holds the group's lock, so that of two buyers of the last place the second sees that it is taken.
create function payments.seat_member(
    p_group public.payment_groups,
    p_session public.payment_checkout_sessions,
    p_preferred int
)
returns int
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_position int;
begin
    perform payments.check_not_a_member(p_group, p_session.user_id);
    v_position := payments.free_position(p_group, p_preferred);
    insert into public.payment_group_members (
        group_id, user_id, position, status, session_id, security_deposit, currency, joined_at, updated_at
    )
    values (
        p_group.id, p_session.user_id, v_position, 'active', p_session.id, p_session.amount, p_session.currency,
        now(), now()
    )
    on conflict (group_id, user_id) do update -- somebody whose membership has ended joins again
        set position = excluded.position,
            status = excluded.status,
            session_id = excluded.session_id,
            security_deposit = excluded.security_deposit,
            currency = excluded.currency,
            joined_at = excluded.joined_at,
            updated_at = excluded.updated_at;
    return v_position;
end;
$$;

comment on function payments.seat_member(public.payment_groups, public.payment_checkout_sessions, int) is
'Makes the buyer an active member and returns the slot. Raises PT409 group_full, already_member.';

revoke all on function payments.seat_member(public.payment_groups, public.payment_checkout_sessions, int)
from public, anon, authenticated, service_role;

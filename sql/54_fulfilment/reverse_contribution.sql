create function payments.reverse_contribution(p_session public.payment_checkout_sessions, p_share numeric)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_group_id uuid := (p_session.fulfilment ->> 'group_id')::uuid;
    v_cycle int := (p_session.fulfilment ->> 'cycle')::int;
begin
    if p_share = 1 then
        update public.payment_contributions as c
        set status = 'refunded', updated_at = now()
        where c.group_id = v_group_id and c.user_id = p_session.user_id and c.cycle = v_cycle
            and c.session_id = p_session.id;
    elsif not exists (
        select from public.payment_contributions as c
        where c.group_id = v_group_id and c.user_id = p_session.user_id and c.cycle = v_cycle
            and c.session_id = p_session.id and c.status = 'paid'
    ) then
        perform payments.fulfil_contribution(p_session);
    end if;
    return jsonb_build_object('share', p_share);
end;
$$;

comment on function payments.reverse_contribution(public.payment_checkout_sessions, numeric) is
'Marks the cycle as refunded when the share is 1, and as paid again when it is less. Answers {share}. Raises PT409 '
'contribution_paid when another session has paid it meanwhile.';

revoke all on function payments.reverse_contribution(public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;

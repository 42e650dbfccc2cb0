create function payments.reverse_group_join(p_session public.payment_checkout_sessions, p_share numeric)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return jsonb_build_object(
        'share', p_share,
        'position', payments.set_membership(p_session, (p_session.fulfilment ->> 'group_id')::uuid, p_share < 1)
    );
end;
$$;

comment on function payments.reverse_group_join(public.payment_checkout_sessions, numeric) is
'Ends the membership when the share is 1, and restores it when it is less again. Answers {share, position}.';

revoke all on function payments.reverse_group_join(public.payment_checkout_sessions, numeric)
from public, anon, authenticated, service_role;

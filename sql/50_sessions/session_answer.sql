create function payments.session_answer(p_session public.payment_checkout_sessions, p_already_completed boolean)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return jsonb_build_object(
        'session_id', p_session.id,
        'status', p_session.status,
        'already_completed', p_already_completed,
        'fulfilment_status', p_session.fulfilment_status,
        'fulfilment', p_session.fulfilment,
        'review_reason', p_session.review_reason
    ) || case
        when p_session.fulfilment ? 'position' then jsonb_build_object('position', p_session.fulfilment -> 'position')
        else '{}'
    end;
end;
$$;

comment on function payments.session_answer(public.payment_checkout_sessions, boolean) is
'What every function that settles money answers; with the position when a slot of a group was bought.';

revoke all on function payments.session_answer(public.payment_checkout_sessions, boolean)
from public, anon, authenticated, service_role;

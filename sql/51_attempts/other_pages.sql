-- Pages on which this purchase can still be paid, or has been without our knowing: earlier ones of the session, and
-- those of its closed sessions. Before a new page opens they are closed; when a buyer asks, they are asked about too.
create function payments.other_pages(
    p_session public.payment_checkout_sessions,
    p_attempt_number bigint,
    p_now timestamptz
)
returns jsonb
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_sessions uuid[] := array(
        select s.id
        from payments.sessions_of_purchase(p_session) as s
        where s.id = p_session.id or s.status in ('failed', 'expired', 'cancelled')
    );
begin
    return (
        select coalesce(jsonb_agg(jsonb_build_object(
            'provider', page.provider, 'provider_session_id', page.provider_session_id
        )), '[]')
        from (
            select a.provider, a.provider_session_id
            from payments.attempts as a
            where a.session_id = any(v_sessions)
                and a.number is distinct from p_attempt_number
                and a.provider_session_id is not null
                and a.status in ('open', 'processing')
                and a.created_at > p_now - interval '3 days'
            -- not by number: the planner would walk the newest attempts of everybody
            order by a.created_at desc
            limit 5
        ) as page
    );
end;
$$;

comment on function payments.other_pages(public.payment_checkout_sessions, bigint, timestamptz) is
'Up to five other pages of the same purchase whose provider has not said a last word: '
'[{provider, provider_session_id}].';

revoke all on function payments.other_pages(public.payment_checkout_sessions, bigint, timestamptz)
from public, anon, authenticated, service_role;

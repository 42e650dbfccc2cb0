create function payments.limit_verifications(p_user_id uuid, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_limit int;
    v_window interval;
    v_state payments.rate_limits;
begin
    select s.verify_limit, s.rate_window into v_limit, v_window from payments.settings as s;
    if v_limit is null then
        return;
    end if;
    insert into payments.rate_limits as r (user_id, action, window_started_at, calls)
    values (p_user_id, 'verify', p_now, 1)
    on conflict (user_id, action) do update
        set calls = case when r.window_started_at <= p_now - v_window then 1 else r.calls + 1 end,
            window_started_at = case
                when r.window_started_at <= p_now - v_window then p_now else r.window_started_at
            end
    returning r.* into v_state;
    if v_state.calls > v_limit then
        perform payments.refuse_for_now('verifications', v_state.window_started_at + v_window - p_now);
    end if;
end;
$$;

comment on function payments.limit_verifications(uuid, timestamptz) is
'Counts a verification and holds the user to settings.verify_limit per window. Raises PT429 too_many_requests.';

revoke all on function payments.limit_verifications(uuid, timestamptz) from public, anon, authenticated, service_role;

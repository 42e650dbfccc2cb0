-- The sessions themselves are the record: a sliding window over the user's newest ids, and nothing is written.
create function payments.limit_new_sessions(p_user_id uuid, p_now timestamptz)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_limit int;
    v_window interval;
    v_blocking timestamptz;
begin
    select t.create_limit, t.rate_window into v_limit, v_window from payments.settings as t;
    if v_limit is null then
        return;
    end if;
    -- the session that must leave the window before the user may make this one
    select s.created_at into v_blocking
    from public.payment_checkout_sessions as s
    where s.user_id = p_user_id and s.id >= payments.first_id_at(p_now - v_window)
    order by s.id desc
    offset v_limit -- the new one is there already: who loses a race to insert makes none and is not counted
    limit 1;
    if found then
        perform payments.refuse_for_now('checkout sessions', v_blocking + v_window - p_now);
    end if;
end;
$$;

comment on function payments.limit_new_sessions(uuid, timestamptz) is
'Holds a user to settings.create_limit new sessions per window. Raises PT429 too_many_requests.';

revoke all on function payments.limit_new_sessions(uuid, timestamptz) from public, anon, authenticated, service_role;

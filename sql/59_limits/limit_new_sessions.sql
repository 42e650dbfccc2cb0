-- The sessions themselves are the record: a sliding window over the user's newest ids, and nothing is written.
create function payments.limit_new_sessions(p_user_id uuid, p_now timestamptz)
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_wait interval;
begin
    -- how long until the session that must leave the window before the user may make this one has left it
    select blocking.created_at + t.rate_window - p_now into v_wait
    from payments.settings as t
    cross join lateral (
        select s.created_at
        from public.payment_checkout_sessions as s
        where t.create_limit is not null
            and s.user_id = p_user_id and s.id >= payments.first_id_at(p_now - t.rate_window)
        order by s.id desc
        offset t.create_limit -- the new one is there already: who loses a race to insert makes none and is not counted
        limit 1
    ) as blocking;
    if found then
        perform payments.refuse_for_now('checkout sessions', v_wait);
    end if;
end;
$$;

comment on function payments.limit_new_sessions(uuid, timestamptz) is
'Holds a user to settings.create_limit new sessions per window. Raises PT429 too_many_requests.';

revoke all on function payments.limit_new_sessions(uuid, timestamptz) from public, anon, authenticated, service_role;

create function payments.refuse_for_now(p_what text, p_wait interval)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'Too many % in a short time.', p_what
        using errcode = 'PT429', detail = 'too_many_requests',
        hint = format('retry_after=%s (seconds).', greatest(ceil(extract(epoch from p_wait)), 1));
end;
$$;

comment on function payments.refuse_for_now(text, interval) is
'Raises PT429 too_many_requests; the hint says after how many seconds to try again.';

revoke all on function payments.refuse_for_now(text, interval) from public, anon, authenticated, service_role;

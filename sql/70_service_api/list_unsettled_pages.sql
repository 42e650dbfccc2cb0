-- For an operator who asks by hand, after an outage say. It only reads: asking through the one door is safe beside the
-- workers, while moving reconcile_at would hand them a flood, lose the order of their queue, and leave out the pages
-- that they have given up.
create function public.list_unsettled_pages(
    p_since timestamptz default null,
    p_provider text default null,
    p_after uuid default null,
    p_limit int default 1000
)
returns table (session_id uuid, provider text, reference text)
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    if p_since > now() then
        raise exception 'p_since is in the future.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Leave it out for what is due now.';
    end if;
    return query
    select distinct on (s.id) s.id, a.provider, a.reference
    from public.payment_checkout_sessions as s
    inner join payments.attempts as a on s.id = a.session_id
    where s.id >= payments.first_id_at(coalesce(p_since, '-infinity'))
        and s.id > coalesce(p_after, '00000000-0000-0000-0000-000000000000')
        and (p_since is not null or a.reconcile_at <= now())
        and s.completed_at is null
        and a.status in ('open', 'processing')
        and a.provider_session_id is not null
        and a.provider = coalesce(p_provider, a.provider)
    -- one page speaks for a session: whoever asks about it asks about the others, too
    order by s.id, a.number is not distinct from s.current_attempt desc, a.number desc
    limit p_limit;
end;
$$;

comment on function public.list_unsettled_pages(timestamptz, text, uuid, int) is
'Unpaid sessions made since p_since with the page to ask about, due or not, by session id: {session_id, provider, '
'reference}. Without p_since: those that are due now. p_after: the last session id of the answer before. Raises PT422 '
'invalid_input.';

revoke all on function public.list_unsettled_pages(timestamptz, text, uuid, int)
from public, anon, authenticated, service_role;
grant execute on function public.list_unsettled_pages(timestamptz, text, uuid, int) to service_role;

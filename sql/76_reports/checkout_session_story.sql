-- Attempts, money, history and documents outlive their session, and so does its story.
create function public.checkout_session_story(p_session_id uuid)
returns table (at timestamptz, kind text, title text, detail jsonb)
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    return query
    select t.at, t.kind, t.title, jsonb_strip_nulls(t.detail)
    from (
        select p.* from payments.story_of_purchase(p_session_id) as p
        union all
        select m.* from payments.story_of_money(p_session_id) as m
        union all
        select n.* from payments.story_of_messages(p_session_id) as n
    ) as t
    -- what one transaction did has one time: cause before effect
    order by t.at, array_position(
        array[
            'session', 'attempt', 'alert', 'webhook', 'capture', 'refund', 'state', 'credits', 'invoice', 'notification'
        ],
        t.kind
    ), t.place, t.title;
    if not found then
        perform payments.refuse_unknown_session(p_session_id);
    end if;
end;
$$;

comment on function public.checkout_session_story(uuid) is
'All that happened to a session, in order of time: {at, kind, title, detail}. kind is session (as it is now), attempt, '
'alert, webhook, capture, refund, state, credits, invoice or notification; detail holds what an operator needs of the '
'row, without what is null, amounts in minor units. No payloads of webhooks, addresses of pages, or metadata. Raises '
'PT404 session_not_found.';

revoke all on function public.checkout_session_story(uuid) from public, anon, authenticated, service_role;
grant execute on function public.checkout_session_story(uuid) to service_role;

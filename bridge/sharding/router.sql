-- What the router has besides the functions that it forwards: where each logical shard is, which payments are known,
-- and how an answer of several shards is made. All of it is reached through the functions of public only.
do $$
declare
    v_role text;
begin
    foreach v_role in array array['service_role', 'authenticated'] loop
        if not exists (select from pg_catalog.pg_roles where rolname = v_role) then
            execute format('create role %I nologin', v_role);
        end if;
    end loop;
end;
$$;

create extension if not exists plproxy;
grant usage on schema public to service_role, authenticated;

create table if not exists shard_router.logical_shards (
    logical int primary key check (logical between 0 and 1023),
    shard int not null check (shard between 0 and 31),
    moving_to int
);

comment on table shard_router.logical_shards is 'On which shard the users of each logical shard are.';
comment on column shard_router.logical_shards.moving_to is
'Set while they are moved; nobody is let in before the move has ended.';

create table if not exists shard_router.payments (
    provider text not null,
    provider_payment_id text not null,
    logical int not null,
    primary key (provider, provider_payment_id)
);

comment on table shard_router.payments is
'Whose shard a payment belongs to, for ever: no shard can see that another one has taken it already.';

create or replace function shard_router.all_shards()
returns int[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select array_agg(substring(o from '^p([0-9]+)=')::int order by substring(o from '^p([0-9]+)=')::int)
    from pg_foreign_server as s
    cross join lateral unnest(s.srvoptions) as o
    where s.srvname = 'pgcheckout' and o ~ '^p[0-9]+='
$$;

comment on function shard_router.all_shards() is 'The shards, in their order.';

create or replace function shard_router.any_shards()
returns int[]
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select array_agg(s order by random()) from unnest(shard_router.all_shards()) as s
$$;

comment on function shard_router.any_shards() is 'The shards in a random order, so that none is always asked first.';

-- Volatile: behind the lock it must see what the last move has left, whoever calls it. The lock is shared among calls
-- and ends with the transaction; a move takes it alone.
create or replace function shard_router.enter(p_logical int)
returns int
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_place shard_router.logical_shards;
begin
    perform pg_advisory_xact_lock_shared(7243924, coalesce(p_logical, 0));
    select l.* into strict v_place from shard_router.logical_shards as l where l.logical = coalesce(p_logical, 0);
    if v_place.moving_to is not null then
        raise exception 'This user is being moved to another shard.'
            using errcode = 'PT503', detail = 'try_again', hint = 'Send the same call again.';
    end if;
    return v_place.shard;
end;
$$;

comment on function shard_router.enter(int) is
'The shard of a logical shard, which stays there until the end of the transaction. Raises PT503 try_again.';

-- Who calls, as payments.is_service() decides it; a signed-in user's identity goes along to the shard.
create or replace function shard_router.caller_role()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when pg_has_role(coalesce(nullif(current_setting('role'), 'none'), session_user), 'service_role', 'usage')
            then 'service_role'
        else 'authenticated'
    end
$$;

create or replace function shard_router.caller_claims()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(current_setting('request.jwt.claims', true), '')
$$;

create or replace function shard_router.caller_id()
returns uuid
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select shard_router.as_uuid(nullif(shard_router.caller_claims(), '')::jsonb ->> 'sub')
$$;

create or replace function shard_router.at_user(p_user_id uuid)
returns int[]
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select array[shard_router.enter(shard_router.logical_of_user(coalesce(p_user_id, shard_router.caller_id())))]
$$;

create or replace function shard_router.at_session(p_session_id uuid)
returns int[]
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select array[shard_router.enter(shard_router.logical_of_id(p_session_id))]
$$;

-- Each shard counts in steps of 32 from its own number; only what has been moved since is elsewhere.
create or replace function shard_router.at_number(p_number bigint)
returns int[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select array_agg(s order by s <> coalesce(p_number % 32, 0), s) from unnest(shard_router.all_shards()) as s
$$;

comment on function shard_router.at_number(bigint) is
'Where an attempt, a letter or an alert of this number is: where it was made, else on one of the others.';

-- Our own ids say where they belong. A provider's do not: then the others are asked, too, and one of them knows it.
create or replace function shard_router.at_names(
    p_reference text,
    p_session_id uuid,
    p_provider text,
    p_provider_session_id text,
    p_provider_payment_id text
)
returns int[]
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_logical int := coalesce(
        shard_router.logical_of_id(shard_router.as_uuid(p_reference)),
        shard_router.logical_of_id(p_session_id),
        shard_router.logical_of_payment(p_provider, p_provider_payment_id)
    );
    v_first int := case when v_logical is not null then shard_router.enter(v_logical) end;
begin
    if v_first is not null and p_provider_session_id is null and p_provider_payment_id is null then
        return array[v_first];
    end if;
    return array(select s from unnest(shard_router.all_shards()) as s order by s is distinct from v_first, s);
end;
$$;

comment on function shard_router.at_names(text, uuid, text, text, text) is
'Where to look for what these names mean, the likeliest place first.';

create or replace function shard_router.logical_of_payment(p_provider text, p_provider_payment_id text)
returns int
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select p.logical
    from shard_router.payments as p
    where p.provider = p_provider and p.provider_payment_id = p_provider_payment_id
$$;

-- Guarantee 2 across shards. Committed with the call: when that fails, the claim is gone with it.
create or replace function shard_router.claim_payment(p_provider text, p_provider_payment_id text, p_logical int)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_known int := shard_router.logical_of_payment(p_provider, p_provider_payment_id);
begin
    if p_provider is null or p_provider_payment_id is null or p_logical is null then
        return; -- the shard will say what is missing
    end if;
    if v_known is null then
        insert into shard_router.payments (provider, provider_payment_id, logical)
        values (p_provider, p_provider_payment_id, p_logical)
        on conflict do nothing;
        if found then
            return;
        end if;
        v_known := shard_router.logical_of_payment(p_provider, p_provider_payment_id);
    end if;
    if v_known <> p_logical then
        raise exception 'This payment of % belongs to another session.', p_provider
            using errcode = 'PT409', detail = 'payment_reused',
            hint = 'A payment pays one session only. Look at both sessions before you refund anything.';
    end if;
end;
$$;

comment on function shard_router.claim_payment(text, text, int) is
'Notes whose shard a payment belongs to. Raises PT409 payment_reused when it is another one''s.';

create or replace function shard_router.claim_payment_of_outcome(p_outcome jsonb)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_logical int := coalesce(
        shard_router.logical_of_id(shard_router.as_uuid(p_outcome ->> 'reference')),
        shard_router.logical_of_id(shard_router.as_uuid(p_outcome ->> 'session_id'))
    );
begin
    if p_outcome ->> 'status' is distinct from 'completed' then
        return;
    end if;
    if v_logical is null and p_outcome ->> 'provider_session_id' is not null then
        v_logical := shard_router.logical_of_id((
            public.find_checkout_attempt(
                p_provider => p_outcome ->> 'provider', p_provider_session_id => p_outcome ->> 'provider_session_id'
            ) ->> 'session_id'
        )::uuid);
    end if;
    perform shard_router.claim_payment(p_outcome ->> 'provider', p_outcome ->> 'provider_payment_id', v_logical);
end;
$$;

create or replace function shard_router.forget_failure(p_provider text, p_event jsonb, p_applied_on int)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_kept_on int;
begin
    if p_event is null then
        return;
    end if;
    select l.shard into v_kept_on
    from shard_router.logical_shards as l
    where l.logical = shard_router.logical_of_event(p_provider, p_event ->> 'id', p_event -> 'payload');
    if v_kept_on <> p_applied_on then
        perform shard_calls.forget_failure(v_kept_on, p_provider, p_event ->> 'id');
    end if;
exception when others then
    raise warning 'A webhook of % that was applied may still be listed as failed: %', p_provider, sqlerrm;
end;
$$;

comment on function shard_router.forget_failure(text, jsonb, int) is
'Once an event is applied, no other shard may list it as failed.';

-- PL/Proxy keeps SQLSTATE, writes its own words before MESSAGE, DETAIL and HINT, and calls a shard that it cannot reach
-- an internal error. Callers get the shard's own words back.
create or replace function shard_router.next_error(
    p_before jsonb,
    p_shard int,
    p_code text,
    p_message text,
    p_detail text,
    p_hint text
)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_away boolean := p_code ~ '^(08|57P)' or p_code = '53300'
        or (p_code = 'XX000' and p_message ~ '^PL/Proxy function [^:]*: \[');
    v_error jsonb := jsonb_build_object(
        'away', v_away,
        'code', p_code,
        'message', regexp_replace(p_message, '^[^\[]*\[[^\]]*\] REMOTE [A-Z]+: ', ''),
        'detail', regexp_replace(p_detail, '^Remote detail: ', ''),
        'hint', regexp_replace(p_hint, '^Remote hint: ', '')
    );
begin
    if v_away then
        raise warning 'shard % does not answer: %', p_shard, rtrim(p_message, E'\n');
        v_error := v_error || jsonb_build_object(
            'code', '08006',
            'message', format('Shard %s does not answer.', p_shard),
            'detail', '',
            'hint', 'Try again in a moment. Users of the other shards are served.'
        );
    elsif p_code <> 'PT404' then
        perform shard_router.raise_error(v_error);
    end if;
    -- who was not asked might have known it: then nobody can say that there is no such thing
    return case when p_before is null or (v_away and p_before -> 'away' = 'false') then v_error else p_before end;
end;
$$;

comment on function shard_router.next_error(jsonb, int, text, text, text, text) is
'What to say if no other shard answers. Raises at once what no other shard could answer better.';

create or replace function shard_router.raise_error(p_error jsonb)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = p_error ->> 'code', message = p_error ->> 'message',
        detail = p_error ->> 'detail', hint = p_error ->> 'hint';
end;
$$;

create or replace function shard_router.merged_health(p_answers jsonb[])
returns jsonb
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_object_agg(m.section, m.lines) || jsonb_build_object('shards', jsonb_build_object(
        'asked', cardinality(shard_router.all_shards()), 'answered', cardinality(p_answers)
    ))
    from (
        select n.section, coalesce(jsonb_object_agg(n.name, n.number) filter (where n.name is not null), '{}') as lines
        from (
            select s.key as section, l.key as name, case
                when l.key = 'oldest_seconds' then max(l.value::numeric)
                when s.key = 'heartbeats' then min(l.value::numeric)
                else sum(l.value::numeric)
            end as number
            from unnest(p_answers) as a
            cross join lateral jsonb_each(a) as s
            left join lateral jsonb_each_text(s.value) as l on true
            group by s.key, l.key
        ) as n
        group by n.section
    ) as m
$$;

comment on function shard_router.merged_health(jsonb[]) is
'payment_health of all shards that answer: counts added up, the oldest of all, each worker''s last beat.';

create or replace function shard_router.merged_sums(p_objects jsonb[])
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(jsonb_object_agg(s.key, s.total), '{}')
    from (
        select e.key, sum(e.value::numeric) as total
        from unnest(p_objects) as o
        cross join lateral jsonb_each_text(o) as e
        group by e.key
    ) as s
$$;

comment on function shard_router.merged_sums(jsonb[]) is 'Objects of numbers, added up by their keys.';

-- A median of all cannot be made of the shards' medians, nor a mean per user without the number of users: they are null.
create or replace function shard_router.merged_line(p_lines jsonb[])
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select to_jsonb(t) || jsonb_build_object(
        'conversion_rate', round(t.completed / nullif(t.created, 0), 4),
        'abandonment_rate', round((t.expired + t.cancelled) / nullif(t.created, 0), 4),
        'median_minutes', null,
        'retries_per_user', null
    )
    from (
        select
            sum((l ->> 'created')::numeric) as created, sum((l ->> 'opened')::numeric) as opened,
            sum((l ->> 'completed')::numeric) as completed, sum((l ->> 'fulfilled')::numeric) as fulfilled,
            sum((l ->> 'expired')::numeric) as expired, sum((l ->> 'failed')::numeric) as failed,
            sum((l ->> 'cancelled')::numeric) as cancelled, sum((l ->> 'open')::numeric) as open,
            round(
                sum((l ->> 'average_minutes')::numeric * (l ->> 'completed')::numeric)
                / nullif(sum((l ->> 'completed')::numeric), 0), 2
            ) as average_minutes,
            shard_router.merged_sums(array_agg(l -> 'revenue')) as revenue,
            shard_router.merged_sums(array_agg(l -> 'refunds')) as refunds
        from unnest(p_lines) as l
    ) as t
$$;

comment on function shard_router.merged_line(jsonb[]) is 'One line of payment_report, of the lines of all shards.';

create or replace function shard_router.merged_lines(p_answers jsonb[], p_section text, p_name text)
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(jsonb_agg(jsonb_build_object(p_name, g.name) || g.line order by g.name), '[]')
    from (
        select l ->> p_name as name, shard_router.merged_line(array_agg(l - p_name)) as line
        from unnest(p_answers) as a
        cross join lateral jsonb_array_elements(a -> p_section) as l
        group by l ->> p_name
    ) as g
$$;

create or replace function shard_router.merged_report(p_answers jsonb[])
returns jsonb
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object(
        'from', min(a ->> 'from'),
        'to', max(a ->> 'to'),
        'totals', shard_router.merged_line(
            array_agg(a -> 'totals') filter (where jsonb_typeof(a -> 'totals') = 'object')
        ),
        'by_day', shard_router.merged_lines(p_answers, 'by_day', 'day'),
        'by_product', shard_router.merged_lines(p_answers, 'by_product', 'product'),
        'by_provider', shard_router.merged_lines(p_answers, 'by_provider', 'provider'),
        'reminders', jsonb_build_object(
            'reminded', sum((a #>> '{reminders,reminded}')::numeric),
            'conversion_with_reminder', null, 'conversion_without', null, 'uplift', null
        ),
        'coupons', (
            select coalesce(jsonb_object_agg(c.id, c.counts), '{}')
            from (
                select used.key as id, shard_router.merged_sums(array_agg(used.value)) as counts
                from unnest(p_answers) as one
                cross join lateral jsonb_each(one -> 'coupons') as used
                group by used.key
            ) as c
        ),
        'shards', jsonb_agg(a)
    )
    from unnest(p_answers) as a
$$;

comment on function shard_router.merged_report(jsonb[]) is
'payment_report of all shards: sums and rates of all, with null where only the reports of the shards (shards) can say.';

create or replace function shard_router.add_user(p_user_id uuid, p_email text default null)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_shard int := shard_router.enter(shard_router.logical_of_user(p_user_id));
    v_message text;
    v_detail text;
    v_hint text;
begin
    perform shard_calls.add_user(v_shard, p_user_id, p_email);
exception when others then
    get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
    perform shard_router.raise_error(
        shard_router.next_error(null, v_shard, sqlstate, v_message, v_detail, v_hint)
    );
end;
$$;

comment on function shard_router.add_user(uuid, text) is
'Makes a user known on their shard. Call it when they sign up: sessions refer to auth.users.';

create or replace function shard_router.shard_of_user(p_user_id uuid)
returns int
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select l.shard from shard_router.logical_shards as l where l.logical = shard_router.logical_of_user(p_user_id)
$$;

comment on function shard_router.shard_of_user(uuid) is 'On which shard a user is.';

revoke all on all functions in schema shard_router from public;
revoke all on all tables in schema shard_router from public;
grant usage on schema shard_router to service_role;
grant execute on function shard_router.add_user(uuid, text) to service_role;
grant execute on function shard_router.shard_of_user(uuid) to service_role;

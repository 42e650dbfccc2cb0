-- Purpose: idempotent requests, spending credits, a user's own history and totals, and a check of all guarantees.
-- Locks:   ACCESS EXCLUSIVE on payments.settings (one row) and public.payment_credit_entries, for a new column without
--          a rewrite each: milliseconds, and given up after 5 s if somebody holds them.
-- Why not NOT VALID: the table has one row.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
set lock_timeout = '5s';

alter table payments.settings
add column idempotency_lease interval not null default '60 seconds',
-- squawk-ignore constraint-missing-not-valid
add constraint settings_idempotency_lease_is_positive check (idempotency_lease > interval '0');

comment on column payments.settings.idempotency_lease is
'How long a request may be worked on before its holder counts as crashed.';

alter table public.payment_credit_entries add column note text;

comment on column public.payment_credit_entries.reason is 'Why: purchase or spend.';
comment on column public.payment_credit_entries.source is
'What caused it, unique per reason: the session of a purchase, user and idempotency key of a spending.';
comment on column public.payment_credit_entries.note is 'What the application says a spending was for.';

create table payments.idempotency_keys (
    key text primary key,
    user_id uuid,
    request_hash text not null,
    status text not null,
    response jsonb,
    leased_until timestamptz not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint idempotency_keys_key_is_short check (length(key) between 1 and 300),
    constraint idempotency_keys_status_is_known check (status in ('pending', 'completed', 'failed'))
);

comment on table payments.idempotency_keys is
'Requests that must have their effect once, with the answer that a repeat gets.';
comment on column payments.idempotency_keys.leased_until is
'A pending request whose holder has not finished by then may be taken over: it has crashed.';

-- Reader: cleanup_idempotency_keys.
create index idempotency_keys_by_age on payments.idempotency_keys (updated_at);

alter table payments.idempotency_keys enable row level security;
revoke all on table payments.idempotency_keys from public, anon, authenticated, service_role;

create function public.payment_history(p_page int default 1, p_page_size int default 20, p_status text default null)
returns jsonb
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user_id uuid := payments.require_user(null);
    v_total bigint;
    v_payments jsonb;
begin
    if p_status <> all(array[
        'pending', 'processing', 'completed', 'failed', 'expired', 'cancelled', 'refunded', 'partially_refunded'
    ]) then
        raise exception 'There is no status %.', quote_literal(p_status)
            using errcode = 'PT422', detail = 'invalid_input', hint = 'p_status is a state of docs/states.md, or left out.';
    end if;
    if p_page is null or p_page not between 1 and 1000000 or p_page_size is null or p_page_size not between 1 and 100 then
        raise exception 'p_page starts at 1, p_page_size is 1 to 100.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Ask for the next page instead of a larger one.';
    end if;
    select count(*) into v_total
    from public.payment_checkout_sessions as s
    where s.user_id = v_user_id and (p_status is null or s.status = p_status);
    select coalesce(jsonb_agg(to_jsonb(page) order by page.id desc), '[]') into v_payments
    from (
        select
            s.id, s.product_id, s.subject, s.status, s.fulfilment_status, s.fulfilment, s.provider, s.currency,
            s.original_amount, s.discount_amount, s.amount, s.refunded_amount, s.created_at, s.completed_at, s.expires_at
        from public.payment_checkout_sessions as s
        where s.user_id = v_user_id and (p_status is null or s.status = p_status)
        order by s.id desc
        limit p_page_size
        offset (p_page - 1)::bigint * p_page_size
    ) as page;
    return jsonb_build_object(
        'payments', v_payments,
        'total_count', v_total,
        'page', p_page,
        'page_size', p_page_size,
        'has_more', p_page::bigint * p_page_size < v_total
    );
end;
$$;

comment on function public.payment_history(int, int, text) is
'The signed-in user''s checkout sessions, newest first, amounts in minor units: {payments, total_count, page, '
'page_size, has_more}. Raises PT401 not_signed_in, PT422 invalid_input, user_required.';

revoke all on function public.payment_history(int, int, text) from public, anon, authenticated, service_role;
grant execute on function public.payment_history(int, int, text) to authenticated, service_role;

create function public.payment_stats()
returns jsonb
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $$
declare
    v_user_id uuid := payments.require_user(null);
begin
    return jsonb_build_object(
        'spent', (
            select coalesce(jsonb_object_agg(paid.currency, paid.amount), '{}')
            from (
                select s.currency, sum(s.amount - s.refunded_amount) as amount
                from public.payment_checkout_sessions as s
                where s.user_id = v_user_id and s.completed_at is not null
                group by s.currency
            ) as paid
        ),
        'credits_bought', (
            select coalesce(sum(e.amount), 0)
            from public.payment_credit_entries as e
            where e.user_id = v_user_id and e.reason = 'purchase'
        ),
        'payments_by_status', (
            select coalesce(jsonb_object_agg(counted.status, counted.number), '{}')
            from (
                select s.status, count(*) as number
                from public.payment_checkout_sessions as s
                where s.user_id = v_user_id
                group by s.status
            ) as counted
        )
    );
end;
$$;

comment on function public.payment_stats() is
'The signed-in user''s totals: {spent: {currency: minor units, refunds deducted}, credits_bought, payments_by_status}. '
'Raises PT401 not_signed_in, PT422 user_required.';

revoke all on function public.payment_stats() from public, anon, authenticated, service_role;
grant execute on function public.payment_stats() to authenticated, service_role;

create function public.begin_idempotent_request(p_key text, p_request_hash text, p_user_id uuid default null)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_known payments.idempotency_keys;
begin
    perform payments.require_service();
    if coalesce(length(p_key), 0) not between 1 and 300 or coalesce(length(p_request_hash), 0) not between 1 and 300 then
        raise exception 'p_key and p_request_hash must have 1 to 300 characters.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Hash the request; name the user in the key.';
    end if;
    insert into payments.idempotency_keys (
        key, user_id, request_hash, status, leased_until, created_at, updated_at
    )
    values (
        p_key, p_user_id, p_request_hash, 'pending', now() + (select s.idempotency_lease from payments.settings as s),
        now(), now()
    )
    on conflict (key) do nothing;
    if found then
        return jsonb_build_object('status', 'new');
    end if;
    select k.* into v_known from payments.idempotency_keys as k where k.key = p_key for no key update;
    if v_known.request_hash <> p_request_hash or v_known.user_id is distinct from p_user_id then
        raise exception 'This idempotency key was used with another request.'
            using errcode = 'PT409', detail = 'idempotency_conflict', hint = 'Use a new key for a new request.';
    end if;
    if v_known.status = 'completed' then
        return jsonb_build_object('status', 'completed', 'response', v_known.response);
    end if;
    if v_known.status = 'pending' and v_known.leased_until > now() then
        raise exception 'The same request is being worked on.'
            using errcode = 'PT409', detail = 'request_in_progress', hint = 'Send it again in a few seconds.';
    end if;
    update payments.idempotency_keys as k
    set status = 'pending',
        leased_until = now() + (select s.idempotency_lease from payments.settings as s),
        updated_at = now()
    where k.key = p_key;
    return jsonb_build_object('status', 'new');
end;
$$;

comment on function public.begin_idempotent_request(text, text, uuid) is
'Claims a request. Answers {status: new} to the caller who must do the work (the first one, or the next after a '
'failure or a crash), and {status: completed, response} to a repeat. Raises PT409 request_in_progress, PT409 '
'idempotency_conflict, PT422 invalid_input.';

revoke all on function public.begin_idempotent_request(text, text, uuid)
from public, anon, authenticated, service_role;
grant execute on function public.begin_idempotent_request(text, text, uuid) to service_role;

-- Each guarantee as a question about the data. Constraints make most of the answers impossible; asking anyway is how a
-- restored, hand-edited or half-migrated database is found out.
create function public.check_payment_invariants()
returns table (invariant text, subject text, detail text)
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    return query
    select 'one_open_session_per_purchase', s.user_id::text, s.product_id || coalesce(' ' || s.subject, '')
    from public.payment_checkout_sessions as s
    where s.status in ('pending', 'processing')
    group by s.user_id, s.product_id, s.subject
    having count(*) > 1
    union all
    select 'paid_session_has_one_settled_capture', s.id::text, format('%s settled captures', count(c.session_id))
    from public.payment_checkout_sessions as s
    left join payments.captures as c on s.id = c.session_id and c.disposition = 'settled'
    where s.completed_at is not null and s.amount > 0
    group by s.id
    having count(c.session_id) <> 1
    union all
    select 'settled_capture_completes_its_session', c.session_id::text, c.provider || ' ' || c.provider_payment_id
    from payments.captures as c
    inner join public.payment_checkout_sessions as s on c.session_id = s.id
    where c.disposition = 'settled' and s.completed_at is null
    union all
    select 'settled_capture_pays_the_price', c.session_id::text,
        format('%s %s due, %s %s captured', s.amount, s.currency, c.amount, c.currency)
    from payments.captures as c
    inner join public.payment_checkout_sessions as s on c.session_id = s.id
    where c.disposition = 'settled'
        and (c.amount < s.amount or c.currency <> s.currency)
        and s.review_reason is null
    union all
    select 'money_without_goods_is_in_review', s.id::text, s.fulfilment_status
    from public.payment_checkout_sessions as s
    where s.completed_at is not null and s.fulfilment_status in ('none', 'failed') and s.review_reason is null
    union all
    select 'credits_are_granted_once_per_paid_session', s.id::text, format('%s entries', count(e.source))
    from public.payment_checkout_sessions as s
    left join public.payment_credit_entries as e on e.reason = 'purchase' and e.source = s.id::text
    where s.kind = 'credits' and s.fulfilment_status = 'fulfilled'
    group by s.id
    having count(e.source) <> 1
    union all
    select 'credits_are_granted_for_fulfilled_sessions_only', s.id::text, s.fulfilment_status
    from public.payment_credit_entries as e
    inner join public.payment_checkout_sessions as s on e.source = s.id::text
    where e.reason = 'purchase' and s.fulfilment_status in ('none', 'failed')
    union all
    select 'balance_is_the_sum_of_entries', b.user_id::text, format('balance %s, entries %s', b.balance, coalesce(e.total, 0))
    from public.payment_credit_balances as b
    left join (
        select pe.user_id, sum(pe.amount) as total from public.payment_credit_entries as pe group by pe.user_id
    ) as e on b.user_id = e.user_id
    where b.balance <> coalesce(e.total, 0)
    union all
    select 'entries_have_a_balance', e.user_id::text, format('entries %s', sum(e.amount))
    from public.payment_credit_entries as e
    inner join auth.users as u on e.user_id = u.id
    where not exists (select from public.payment_credit_balances as b where b.user_id = e.user_id)
    group by e.user_id
    union all
    select 'subscription_covers_its_periods', p.user_id::text, p.tier
    from payments.subscription_periods as p
    inner join public.payment_subscriptions as s on p.user_id = s.user_id and p.tier = s.tier
    group by p.user_id, p.tier, s.ends_at
    having max(p.ends_at) <> s.ends_at
    union all
    select 'completion_is_in_the_audit_trail', s.id::text, s.status
    from public.payment_checkout_sessions as s
    where s.completed_at is not null
        and not exists (
            select from payments.session_events as e where e.session_id = s.id and e.to_status = 'completed'
        );
end;
$$;

comment on function public.check_payment_invariants() is
'The guarantees that do not hold, one row each: invariant, subject (a session or user id), detail. No rows: healthy. '
'Reads everything: run it at a quiet hour, or on a replica.';

revoke all on function public.check_payment_invariants() from public, anon, authenticated, service_role;
grant execute on function public.check_payment_invariants() to service_role;

create function public.cleanup_idempotency_keys(p_older_than interval default '24 hours')
returns int
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count int;
begin
    perform payments.require_service();
    delete from payments.idempotency_keys as k
    where k.updated_at < now() - p_older_than and (k.status <> 'pending' or k.leased_until < now());
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

comment on function public.cleanup_idempotency_keys(interval) is
'Forgets finished and abandoned requests that are older, and returns how many.';

revoke all on function public.cleanup_idempotency_keys(interval) from public, anon, authenticated, service_role;
grant execute on function public.cleanup_idempotency_keys(interval) to service_role;

create function public.finish_idempotent_request(p_key text, p_status text, p_response jsonb)
returns void
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    if p_status is null or p_status not in ('completed', 'failed') then
        raise exception 'p_status must be completed or failed.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'completed keeps the answer for repeats.';
    end if;
    -- who finishes last after a take-over does not change what repeats were told
    update payments.idempotency_keys as k
    set status = p_status, response = p_response, updated_at = now()
    where k.key = p_key and k.status <> 'completed';
end;
$$;

comment on function public.finish_idempotent_request(text, text, jsonb) is
'Ends a claimed request. completed: repeats get the response. failed: it had no effect, and the next call works again. '
'Raises PT422 invalid_input.';

revoke all on function public.finish_idempotent_request(text, text, jsonb)
from public, anon, authenticated, service_role;
grant execute on function public.finish_idempotent_request(text, text, jsonb) to service_role;

create function public.spend_credits(p_user_id uuid, p_amount bigint, p_reason text, p_idempotency_key text)
returns jsonb
language plpgsql
volatile
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
declare
    v_source text := p_user_id || ':' || p_idempotency_key;
    v_balance bigint;
    v_spent bigint;
begin
    perform payments.require_service();
    if v_source is null or length(p_idempotency_key) not between 1 and 255 or coalesce(p_amount, 0) <= 0 then
        raise exception 'p_user_id, p_idempotency_key (1 to 255 characters) and a positive p_amount are needed.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Use one key per thing that is paid with credits.';
    end if;
    -- the entry first: of two calls with one key the second waits here, and then finds it
    insert into public.payment_credit_entries (user_id, amount, reason, source, note, created_at)
    values (p_user_id, -p_amount, 'spend', v_source, left(p_reason, 200), now())
    on conflict (reason, source) do nothing;
    if not found then
        select -e.amount into v_spent
        from public.payment_credit_entries as e
        where e.reason = 'spend' and e.source = v_source;
        if v_spent <> p_amount then
            raise exception 'This idempotency key was used for % credits.', v_spent
                using errcode = 'PT409', detail = 'idempotency_conflict', hint = 'Use a new key for another spending.';
        end if;
        select b.balance into v_balance from public.payment_credit_balances as b where b.user_id = p_user_id;
        return jsonb_build_object('spent', p_amount, 'balance', v_balance, 'already_spent', true);
    end if;
    update public.payment_credit_balances as b
    set balance = b.balance - p_amount, updated_at = now()
    where b.user_id = p_user_id and b.balance >= p_amount
    returning b.balance into v_balance;
    if not found then
        raise exception 'Not enough credits for %.', p_amount
            using errcode = 'PT402', detail = 'insufficient_credits', hint = 'The user must buy credits first.';
    end if;
    return jsonb_build_object('spent', p_amount, 'balance', v_balance, 'already_spent', false);
end;
$$;

comment on function public.spend_credits(uuid, bigint, text, text) is
'Takes credits from a user, once per key, never below zero. p_reason is for the user''s statement. Answers {spent, '
'balance, already_spent}. Raises PT402 insufficient_credits, PT409 idempotency_conflict, PT422 invalid_input.';

revoke all on function public.spend_credits(uuid, bigint, text, text) from public, anon, authenticated, service_role;
grant execute on function public.spend_credits(uuid, bigint, text, text) to service_role;

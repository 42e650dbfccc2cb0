create function public.list_checkout_sessions(
    p_status text default null,
    p_in_review boolean default null,
    p_user_id uuid default null,
    p_provider text default null,
    p_since timestamptz default null,
    p_before uuid default null,
    p_limit int default 50
)
returns table (
    session_id uuid, created_at timestamptz, status text, fulfilment_status text, review_reason text, user_id uuid,
    email text, product_id text, subject text, provider text, currency text, amount bigint, refunded_amount bigint,
    attempts int, expires_at timestamptz, completed_at timestamptz
)
language plpgsql
stable
security definer -- service_role holds no rights on the engine's tables
set search_path = pg_catalog, pg_temp
as $$
begin
    perform payments.require_service();
    perform payments.check_limit(p_limit);
    if p_status <> all(array[
        'pending', 'processing', 'completed', 'failed', 'expired', 'cancelled', 'refunded', 'partially_refunded'
    ]) then
        raise exception 'There is no status %.', quote_literal(left(p_status, 64))
            using errcode = 'PT422', detail = 'invalid_input', hint = 'p_status is a state of docs/states.md, or left out.';
    end if;
    if p_since > now() then
        raise exception 'p_since is in the future.'
            using errcode = 'PT422', detail = 'invalid_input', hint = 'Leave it out for all sessions.';
    end if;
    -- planned for each call: what was not asked for folds away, and what was may use its index
    return query execute
        'select s.id, s.created_at, s.status, s.fulfilment_status, s.review_reason, s.user_id, s.email, s.product_id,'
        ' s.subject, s.provider, s.currency, s.amount, s.refunded_amount, s.attempts, s.expires_at, s.completed_at'
        ' from public.payment_checkout_sessions as s'
        ' where ($1 is null or s.status = $1)'
        ' and ($2 is null or $2 = (s.review_reason is not null))'
        ' and ($3 is null or s.user_id = $3)'
        ' and ($4 is null or s.provider = $4)'
        ' and s.id >= payments.first_id_at($5) and ($6 is null or s.id < $6)'
        ' order by s.id desc limit $7'
    using p_status, p_in_review, p_user_id, p_provider, coalesce(p_since, '-infinity'), p_before, p_limit;
end;
$$;

comment on function public.list_checkout_sessions(text, boolean, uuid, text, timestamptz, uuid, int) is
'Sessions for operators, newest first, amounts in minor units: {session_id, created_at, status, fulfilment_status, '
'review_reason, user_id, email, product_id, subject, provider, currency, amount, refunded_amount, attempts, '
'expires_at, completed_at}. Arguments that are left out do not filter. p_since: made since then; it bounds the search '
'of p_provider, which has no index. p_before: the last session_id of the answer before. Raises PT422 invalid_input.';

revoke all on function public.list_checkout_sessions(text, boolean, uuid, text, timestamptz, uuid, int)
from public, anon, authenticated, service_role;
grant execute on function public.list_checkout_sessions(text, boolean, uuid, text, timestamptz, uuid, int)
to service_role;
